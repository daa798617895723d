"""SimpleViT (Beyer et al. 2022, https://arxiv.org/abs/2205.01580) with patch selection.

2-D sine-cosine positions, no class token, mean pooling, pre-norm blocks.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vit_patch_env.attention import (
    attend,
    attend_scalars,
    attention_weights,
    full_precision,
    split_heads,
)
from vit_patch_env.selection import select_tokens


def sincos_positions(height: int, width: int, dim: int, temperature: float = 10_000.0) -> Tensor:
    """Fixed 2-D sine-cosine position embedding (height * width, dim), float32.

    Raises:
        ValueError: if dim is not divisible by 4 (a sine and a cosine for each axis).
    """
    if dim % 4:
        raise ValueError(f"dim must be divisible by 4, got {dim}")
    n_frequencies = dim // 4
    omega = temperature ** -torch.linspace(0, 1, n_frequencies)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = torch.stack((x, y)).flatten(1)[..., None] * omega  # (2, height * width, dim / 4)
    waves = torch.stack((angles.sin(), angles.cos()), dim=1)
    positions: Tensor = rearrange(waves, "xy trig n f -> n (xy trig f)")
    return positions


class Attention(nn.Module):
    """Multi-head self-attention with its LayerNorm: (batch, n_tokens, dim) -> the same shape."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.dim_head = dim_head
        self.scale = dim_head**-0.5
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """What attention adds to the tokens: (batch, n_tokens, dim)."""
        return self.combine(self.project(tokens))

    def project(self, tokens: Tensor) -> Tensor:
        """Query, key and value of the tokens: (batch, n_tokens, 3 * heads * dim_head)."""
        return self.to_qkv(self.norm(tokens))  # type: ignore[no-any-return]

    def combine(self, qkv: Tensor, bias: Tensor | None = None) -> Tensor:
        """What attention adds to the tokens of `project`: (batch, n_tokens, dim).

        Args:
            qkv: of `project`.
            bias: (batch, n_tokens), added to the scores of each key; None for none.
        """
        out = attend(qkv, self.heads, self.scale, bias)
        return self.to_out(out)  # type: ignore[no-any-return]

    def weights(self, tokens: Tensor) -> Tensor:
        """Attention (batch, heads, queries, keys), each query's row summing to 1."""
        query_key = F.linear(self.norm(tokens), self._query_key)
        query, key = split_heads(query_key, 2, self.heads)
        return attention_weights(query, key, self.scale)

    def mean_output(self, tokens: Tensor) -> Tensor:
        """`forward(tokens)` averaged over batch and dim: (n_tokens,) float32.

        Everything behind the softmax is linear, so the mean over dim is taken of the weights: a
        token's value is then one number per head, and neither values nor output are projected.
        """
        normed = self.norm(tokens)
        value = self.to_qkv.weight.view(3, self.heads, self.dim_head, -1)[2]
        out = self.to_out.weight.mean(dim=0).view(self.heads, self.dim_head)
        with full_precision(tokens.device):
            # Autocast may have made them narrower than the weights.
            values = F.linear(normed.to(out.dtype), torch.einsum("hd,hdk->hk", out, value))
        return attend_scalars(normed, self._query_key, values, self.scale).mean(dim=0)

    @property
    def _query_key(self) -> Tensor:
        """The projection to query and key (2 * heads * dim_head, dim)."""
        return self.to_qkv.weight[: 2 * self.heads * self.dim_head]


class Block(nn.Module):
    """One transformer layer: attention and a GELU MLP, each added to its input."""

    def __init__(self, dim: int, heads: int, dim_head: int, mlp_dim: int) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dim_head)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """The layer's output: (batch, n_tokens, dim)."""
        tokens = tokens + self.attention(tokens)
        return tokens + self.mlp(tokens)  # type: ignore[no-any-return]


class SimpleViT(nn.Module):
    """SimpleViT whose forward pass takes the patches to keep as an argument.

    The ViTs in `vit_patch_env.models` are subclasses that state only what differs.

    The defaults are the paper's Table 1 on 32 x 32 images: 64 patches, 3.95 M parameters.

    Args:
        image_size: height and width of the images, in pixels.
        patch_size: height and width of a patch, in pixels.
        channels: image channels.
        n_classes: outputs.
        dim: token size, divisible by 4.
        depth: transformer layers.
        heads: attention heads per layer.
        dim_head: size of a head.
        mlp_dim: hidden size of a layer's MLP.

    Raises:
        ValueError: if image_size is not divisible by patch_size, or dim not by 4, or if a patch is
            a single value.

    Attributes:
        n_prefix_tokens: tokens before the patches', such as a class token.
        data_dependent: whether the images decide how many tokens there are.
    """

    n_prefix_tokens = 0
    data_dependent = False
    positions: Tensor
    blocks: Sequence[Block]

    def __init__(
        self,
        *,
        n_classes: int,
        image_size: int = 32,
        patch_size: int = 4,
        channels: int = 3,
        dim: int = 128,
        depth: int = 6,
        heads: int = 16,
        dim_head: int = 64,
        mlp_dim: int = 512,
    ) -> None:
        super().__init__()
        side = patches_per_side(image_size, patch_size)
        patch_dim = channels * patch_size**2
        if patch_dim == 1:
            raise ValueError(
                "a patch must have two values or more, since the embedding begins with a LayerNorm "
                "over them, got patch_size=1 on images of one channel"
            )
        self.patch_size = patch_size
        self.n_patches = side**2
        self.embedding = nn.Sequential(
            nn.LayerNorm(patch_dim), nn.Linear(patch_dim, dim), nn.LayerNorm(dim)
        )
        self.register_buffer("positions", sincos_positions(side, side, dim), persistent=False)
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            Block(dim, heads, dim_head, mlp_dim) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, n_classes)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits (batch, n_classes) of images (batch, channels, height, width).

        Args:
            images: normalised images.
            keep: int64 indices (n_keep,) of the patches to compute with; None for all. Dropped
                patches cost nothing: they are left out before the embedding.
        """
        tokens = self.transform(self.embed(images, keep))
        return self.head(self.pool(tokens))  # type: ignore[no-any-return]

    def transform(self, tokens: Tensor) -> Tensor:
        """Embedded tokens after all blocks: (batch, n_tokens, dim), or fewer tokens."""
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """What the head reads of the transformed tokens: (batch, dim)."""
        return self.norm(tokens).mean(dim=1)  # type: ignore[no-any-return]

    def first_attention(self, images: Tensor) -> Tensor:
        """The first attention layer's output (batch, n_patches, dim) on all patches.

        The agent's view of a batch (paper, section 2.2).
        """
        output: Tensor = self.blocks[0].attention(self.embed(images))
        return output[:, self.n_prefix_tokens :]

    def mean_first_attention(self, images: Tensor) -> Tensor:
        """`first_attention(images)` averaged over batch and dim: (n_patches,), at half its cost."""
        output = self.blocks[0].attention.mean_output(self.embed(images))
        return output[self.n_prefix_tokens :]

    def first_attention_weights(self, images: Tensor) -> Tensor:
        """The first layer's attention (batch, heads, queries, keys) among all patches.

        A query's row sums to 1: what goes to prefix tokens is shared out among the patches.
        """
        patches = self.embed(images)[:, self.n_prefix_tokens :]
        return self.blocks[0].attention.weights(patches)

    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Patch tokens with positions added: (batch, n_keep, dim), or n_patches for None."""
        size = self.patch_size
        patches = rearrange(images, "b c (y p) (x q) -> b (y x) (p q c)", p=size, q=size)
        positions = self.positions if keep is None else self.positions[keep]
        return self.embedding(select_tokens(patches, keep)) + positions  # type: ignore[no-any-return]


def patches_per_side(image_size: int, patch_size: int) -> int:
    """Number of patches along one side of a square image.

    Raises:
        ValueError: if image_size is not a positive multiple of patch_size.
    """
    if patch_size < 1 or image_size < patch_size or image_size % patch_size:
        raise ValueError(
            f"image_size must be divisible by patch_size, got image_size={image_size} "
            f"and patch_size={patch_size}"
        )
    return image_size // patch_size
