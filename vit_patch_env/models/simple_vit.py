"""SimpleViT (Beyer et al. 2022, https://arxiv.org/abs/2205.01580) with patch selection.

2-D sine-cosine positions, no class token, mean pooling, pre-norm blocks.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import embedding

from vit_patch_env.checks import InputError, named
from vit_patch_env.models.layers.block import Block
from vit_patch_env.patches.grid import ImageSize, patch_grid
from vit_patch_env.patches.selection import select_tokens


def sincos_positions(height: int, width: int, dim: int, temperature: float = 10_000.0) -> Tensor:
    """Fixed 2-D sine-cosine position embedding (height * width, dim), float32.

    Raises:
        ValueError: if dim is not divisible by 4 (a sine and a cosine for each axis).
    """
    if dim % 4:
        raise InputError(f"{named('dim')} must be divisible by 4, got {dim}")
    n_frequencies = dim // 4
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    # The device is named: while transformers loads weights, it replaces torch.linspace, and after
    # that torch may no longer know it as a function that `with torch.device(...)` is for.
    places = torch.linspace(0, 1, n_frequencies, dtype=torch.float32, device=y.device)
    omega = temperature**-places
    angles = torch.stack((x, y)).flatten(1)[..., None] * omega  # (2, height * width, dim / 4)
    waves = torch.stack((angles.sin(), angles.cos()), dim=1)
    positions: Tensor = rearrange(waves, "xy trig n f -> n (xy trig f)")
    return positions


class SimpleViT(nn.Module):
    """SimpleViT whose forward pass takes the patches to keep as an argument.

    The ViTs in `vit_patch_env.models` are subclasses that override only what differs.

    The defaults are the paper's Table 1 on 32 x 32 images: 64 patches, 3.95 M parameters.

    Args:
        image_size: height and width of the images, in pixels; one number for squares.
        patch_size: height and width of a patch, in pixels.
        channels: image channels.
        n_classes: outputs.
        dim: token size, divisible by 4.
        depth: transformer layers.
        heads: attention heads per layer.
        dim_head: size of a head.
        mlp_dim: hidden size of a layer's MLP.

    Raises:
        ValueError: if a side of the images is not divisible by patch_size, or dim not by 4, or if a
            patch is a single value.

    Attributes:
        grid: rows and columns of patches of an image.
        n_patches: their number.
        n_prefix_tokens: tokens before the patches', such as a class token.
        head_names: layers that are replaced for other classes.
        data_dependent: whether the number of tokens depends on the images.
        random_generators: on the model's device, that it draws from besides torch's own.
        reduces_tokens: whether blocks drop or merge tokens outside of training, too.
        published_keep_rate: default of the argument `keep_rate`; None for a model without it.
        package: optional package that the model needs; None for none.
    """

    n_prefix_tokens = 0
    head_names = ("head",)
    data_dependent = False
    reduces_tokens: ClassVar[bool] = False
    published_keep_rate: ClassVar[float | None] = None
    package: ClassVar[str | None] = None
    positions: Tensor
    blocks: Sequence[Block]

    def __init__(
        self,
        *,
        n_classes: int,
        image_size: ImageSize = 32,
        patch_size: int = 4,
        channels: int = 3,
        dim: int = 128,
        depth: int = 6,
        heads: int = 16,
        dim_head: int = 64,
        mlp_dim: int = 512,
    ) -> None:
        super().__init__()
        patch_dim = channels * patch_size**2
        if patch_dim == 1:
            raise InputError(
                "a patch must have two values or more, since the embedding begins with a LayerNorm "
                f"over them, got {named('patch_size')} 1 on images of one channel"
            )
        self.patch_size = patch_size
        self.grid = patch_grid(image_size, patch_size)
        self.n_patches = math.prod(self.grid)
        self.embedding = nn.Sequential(
            nn.LayerNorm(patch_dim), nn.Linear(patch_dim, dim), nn.LayerNorm(dim)
        )
        self.register_buffer("positions", sincos_positions(*self.grid, dim), persistent=False)
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            Block(dim, heads, dim_head, mlp_dim) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, n_classes)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits (batch, n_classes) of images (batch, channels, height, width).

        Args:
            images: normalised images.
            keep: int64 indices of the patches to compute with, (n_keep,), or (batch, n_keep) for
                others in each image; None for all. Dropped patches cost nothing: they are removed
                before the embedding.
        """
        tokens = self.transform(self.embed(images, keep))
        return self.head(self.pool(tokens))  # type: ignore[no-any-return]

    def transform(self, tokens: Tensor) -> Tensor:
        """Embedded tokens after all blocks: (batch, n_tokens, dim), or fewer tokens."""
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """The head's input from the transformed tokens: (batch, dim)."""
        return self.norm(tokens).mean(dim=1)  # type: ignore[no-any-return]

    def first_attention(self, images: Tensor) -> Tensor:
        """The first attention layer's output (batch, n_patches, dim) on all patches.

        Its mean is the paper's observation of a batch (section 2.2).
        """
        output: Tensor = self.blocks[0].attention(self.embed(images))
        return output[:, self.n_prefix_tokens :]

    def mean_first_attention(self, images: Tensor) -> Tensor:
        """`first_attention(images)` averaged over batch and dim: (n_patches,), at half its cost."""
        output = self.blocks[0].attention.mean_output(self.embed(images))
        return output[self.n_prefix_tokens :]

    def first_attention_weights(self, images: Tensor) -> Tensor:
        """The first layer's attention (batch, heads, queries, keys) among all patches.

        Each query's row sums to 1: prefix tokens are excluded before the softmax.
        """
        patches = self.embed(images)[:, self.n_prefix_tokens :]
        return self.blocks[0].attention.weights(patches)

    @property
    def random_generators(self) -> tuple[torch.Generator, ...]:
        """Those of models that have one of their own; by default none."""
        return ()

    @property
    def n_layers(self) -> int:
        """Number of transformer layers."""
        return len(self.blocks)

    def attention_outputs(self, images: Tensor, layers: Sequence[int]) -> Tensor:
        """Outputs of these attention layers, (len(layers), batch, n_patches, dim), on all patches.

        Not of models that reduce their tokens.

        Args:
            images: normalised images.
            layers: from 0; layers after the last of them are not computed.
        """
        last = max(layers)
        tokens, outputs = self._through_layers(images, last, lambda output: output)
        outputs.append(self.blocks[last].attention(tokens))
        return torch.stack([outputs[layer] for layer in layers])[:, :, self.n_prefix_tokens :]

    def mean_attention_outputs(self, images: Tensor, layers: Sequence[int]) -> Tensor:
        """`attention_outputs` averaged over layers, batch and dim: (n_patches,).

        The last layer costs half, as in `mean_first_attention`.
        """
        last = max(layers)
        tokens, means = self._through_layers(
            images, last, lambda output: output.float().mean(dim=(0, 2))
        )
        means.append(self.blocks[last].attention.mean_output(tokens))
        chosen = torch.stack([means[layer] for layer in layers])
        return chosen.mean(dim=0)[self.n_prefix_tokens :]

    def _through_layers(
        self, images: Tensor, n_layers: int, of: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """All tokens after so many layers, and a function of each one's attention output."""
        tokens, found = self.embed(images), []
        for block in self.blocks[:n_layers]:
            output = block.attention(tokens)
            found.append(of(output))
            tokens = tokens + output
            tokens = tokens + block.mlp(tokens)
        return tokens, found

    def layer_of(self, name: str) -> int:
        """The layer of a parameter: 0 for the embedding, positions and class token.

        i + 1 for block i, `n_layers` + 1 for the final norm and the head.

        Args:
            name: of the parameter, as in `named_parameters`.
        """
        part, _, rest = name.partition(".")
        if part == "blocks":
            return int(rest.partition(".")[0]) + 1
        return self.n_layers + 1 if part in ("norm", "head") else 0

    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Patch tokens with positions added: (batch, n_keep, dim), or n_patches for None."""
        size = self.patch_size
        # With a pixel's channels side by side, a CPU cuts patches in half of the time.
        images = images.contiguous(memory_format=torch.channels_last)
        patches = rearrange(images, "b c (y p) (x q) -> b (y x) (p q c)", p=size, q=size)
        positions = self.positions if keep is None else embedding(keep, self.positions)
        return self.embedding(select_tokens(patches, keep)) + positions  # type: ignore[no-any-return]


MODEL = SimpleViT
