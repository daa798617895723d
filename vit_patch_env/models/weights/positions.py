"""Learned positions of weights, resampled from one grid of patches to another."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from vit_patch_env.patches.sampling import Grid

_NAMES = ("pos_embed", "pos_embedding", "position_embeddings")
"""Ends of the names of positions (1, n_prefix_tokens + n_patches, dim) in libraries' models."""


def with_positions_for(state: Mapping[str, Tensor], own: Grid, grid: Grid) -> dict[str, Tensor]:
    """Weights with positions for a grid of patches, resampled bicubically as timm does.

    Between square grids they stay as they are: libraries resample those themselves, of which they
    know the shape by the number of positions.

    Args:
        state: weights by name.
        own: rows and columns of the patches that they are of.
        grid: rows and columns of the patches that they will be used for.
    """
    if own == grid or (own[0] == own[1] and grid[0] == grid[1]):
        return dict(state)
    n_patches = own[0] * own[1]
    return {
        name: _resampled(value, own, grid)
        if name.endswith(_NAMES) and value.ndim == 3 and value.shape[1] >= n_patches
        else value
        for name, value in state.items()
    }


def _resampled(positions: Tensor, own: Grid, grid: Grid) -> Tensor:
    """Positions (1, n_prefix_tokens + n_patches, dim) of another grid; prefix tokens come first."""
    n_prefix = positions.shape[1] - own[0] * own[1]
    prefix, patches = positions[:, :n_prefix], positions[:, n_prefix:]
    image = patches.float().view(1, *own, -1).permute(0, 3, 1, 2)  # (1, dim, rows, columns)
    image = F.interpolate(image, grid, mode="bicubic", antialias=True)
    resampled = image.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
    return torch.cat((prefix, resampled), dim=1)
