"""PatchMerger (Renggli et al. 2022, https://arxiv.org/abs/2202.12015)."""

from typing import Any

from torch import Tensor

from vit_patch_env.models.simple_vit import SimpleViT


class PatchMergerViT(SimpleViT):
    """SimpleViT with a PatchMerger in the middle: learned queries that attend to the tokens.

    The layer is vit-pytorch's. It follows the first half of the blocks, as published, or the only
    one. Its number of outputs does not depend on the number of input patches.

    Args:
        keep_rate: outputs of the layer as a share of all patches. Published: 8 outputs, which are
            0.125 of our 64 patches.
        vit_options: of `SimpleViT`.
    """

    published_keep_rate = 0.125
    reduces_tokens = True
    package = "vit-pytorch"

    def __init__(self, *, keep_rate: float = published_keep_rate, **vit_options: Any) -> None:
        from vit_pytorch.vit_with_patch_merger import PatchMerger  # an optional package

        super().__init__(**vit_options)
        self.keep_rate = keep_rate
        n_outputs = max(1, round(keep_rate * self.n_patches))
        self.merger = PatchMerger(dim=self.positions.shape[1], num_tokens_out=n_outputs)

    @property
    def _middle(self) -> int:
        """Number of blocks before the merger."""
        return max(1, len(self.blocks) // 2)

    def layer_of(self, name: str) -> int:
        """The layer of a parameter: that of the block before it for the merger."""
        return self._middle if name.startswith("merger.") else super().layer_of(name)

    def transform(self, tokens: Tensor) -> Tensor:
        """Tokens after all blocks: (batch, n_outputs, dim)."""
        for index, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if index == self._middle:
                tokens = self.merger(tokens).to(tokens.dtype)  # autocast returns a narrower type
        return tokens


MODEL = PatchMergerViT
