"""PatchDropout (Liu et al. 2022, https://arxiv.org/abs/2208.07220)."""

from typing import Any

import torch
from torch import Tensor

from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.system.torch_state import DrawingFrom


class PatchDropoutViT(SimpleViT):
    """SimpleViT that drops random patches in training, different ones for each image.

    The layer is timm's. It draws from a generator of the model instead of torch's global one: the
    patches do not depend on other code that uses the global generator, and do not affect it.

    Args:
        keep_rate: share of the patches kept, rounded down; published: 0.5.
        vit_options: of `SimpleViT`.
    """

    published_keep_rate = 0.5
    package = "timm"

    def __init__(self, *, keep_rate: float = published_keep_rate, **vit_options: Any) -> None:
        from timm.layers.patch_dropout import PatchDropout  # an optional package

        super().__init__(**vit_options)
        self.keep_rate = keep_rate
        # The layer rounds n * (1 - prob) down: rounding errors must not cost a token.
        self.dropout = PatchDropout(max(0.0, 1 - keep_rate - 1e-6), num_prefix_tokens=0)
        self._seed = int(torch.randint(2**63 - 1, (), device="cpu"))
        self._generators: dict[torch.device, torch.Generator] = {}

    def transform(self, tokens: Tensor) -> Tensor:
        """Tokens after all blocks: (batch, n_tokens, dim), in training fewer."""
        with DrawingFrom(self._generator(tokens.device)):
            tokens = self.dropout(tokens)
        return super().transform(tokens)

    def get_extra_state(self) -> Tensor:
        """State of the random generator, saved with the weights."""
        return self._generator(self._device).get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the random generator."""
        self._generator(self._device).set_state(state.cpu())

    @property
    def random_generators(self) -> tuple[torch.Generator, ...]:
        """The one that training draws from on the device of the model."""
        return (self._generator(self._device),)

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _generator(self, device: torch.device) -> torch.Generator:
        if device.type != "cuda":
            device = torch.device("cpu")
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


MODEL = PatchDropoutViT
