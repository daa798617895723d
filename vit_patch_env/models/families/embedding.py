"""Patch embeddings of libraries' ViTs, computed on the kept patches."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vit_patch_env.patches.selection import select_tokens


def cuts_patches(embedding: nn.Module) -> bool:
    """Whether an embedding is a convolution over patches that do not overlap."""
    return (
        isinstance(embedding, nn.Conv2d)
        and embedding.kernel_size == embedding.stride
        and embedding.padding in ((0, 0), "valid")
        and embedding.dilation == (1, 1)
        and embedding.groups == 1
    )


def embed_patches(
    embedding: Callable[[Tensor], Tensor], images: Tensor, keep: Tensor | None
) -> Tensor:
    """Embedded patches without positions: (batch, n_keep, dim), or n_patches for None.

    A convolution over patches is computed on the kept ones only: it is a linear map of a patch's
    pixels. Any other embedding is computed on the whole image, and its patches are selected.

    Args:
        embedding: maps images to (batch, dim, rows, columns).
        images: (batch, channels, height, width).
        keep: of `select_tokens`.
    """
    if keep is None or not isinstance(embedding, nn.Conv2d) or not cuts_patches(embedding):
        return select_tokens(embedding(images).flatten(2).transpose(1, 2), keep)
    height, width = embedding.kernel_size
    patches = rearrange(images, "b c (y p) (x q) -> b (y x) (c p q)", p=height, q=width)
    return F.linear(select_tokens(patches, keep), embedding.weight.flatten(1), embedding.bias)


def positions_of(positions: Tensor, keep: Tensor | None) -> Tensor:
    """Positions (n_keep, dim) of the kept patches, or (batch, n_keep, dim) for one keep per image.

    Args:
        positions: (n_patches, dim).
        keep: of `select_tokens`.
    """
    if keep is None:
        return positions
    return F.embedding(keep, positions)


def with_prefix(prefix: Tensor, patches: Tensor) -> Tensor:
    """Prefix tokens (n_prefix, dim), the same for every image, before the patches'."""
    first = prefix.expand(patches.shape[0], -1, -1).to(patches.dtype)
    return torch.cat((first, patches), dim=1)
