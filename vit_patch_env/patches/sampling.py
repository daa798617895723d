"""Random sampling of patch masks: pure functions, by name in `SAMPLERS`."""

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.checks import InputError

if TYPE_CHECKING:
    import gymnasium as gym

SamplingName = Literal["uniform", "spread"]

Grid = tuple[int, int]
"""Rows and columns of patches."""


def known_grid(n_patches: int, grid: Any) -> Grid | None:
    """A grid as an environment or a file states it; None if it is not one of so many patches.

    Args:
        n_patches: of the grid.
        grid: rows and columns, or anything that another environment has under this name.
    """
    if not isinstance(grid, tuple | list) or len(grid) != 2:
        return None
    if not all(isinstance(side, int | np.integer) and side > 0 for side in grid):
        return None
    rows, columns = map(int, grid)
    return (rows, columns) if rows * columns == n_patches else None


def grid_of(n_patches: int, grid: Grid | None = None) -> Grid:
    """Rows and columns of patches: the grid if it is known, otherwise those of a square.

    Raises:
        ValueError: "n_patches must be a square number, got 15", where the grid is not known.
    """
    side = math.isqrt(n_patches)
    if grid is None and side**2 != n_patches:
        raise InputError(f"n_patches must be a square number, got {n_patches}")
    return (side, side) if grid is None else grid


def grid_of_env(env: "gym.Env[Any, Any]", n_patches: int) -> Grid:
    """Rows and columns of an environment's patches: its `grid`, otherwise those of a square.

    Raises:
        ValueError: if it has no grid of so many patches, and their number is not a square.
    """
    grid = env.get_wrapper_attr("grid") if env.has_wrapper_attr("grid") else None
    return grid_of(n_patches, known_grid(n_patches, grid))


def sample_uniform(
    scores: NDArray[np.float64],
    n_keep: int,
    rng: np.random.Generator,
    grid: Grid | None = None,
) -> NDArray[np.int8]:
    """Sample `n_keep` patches without replacement, with weights exp(score).

    With equal scores all sets of patches are equally likely. Gumbel top-k: the highest scores after
    Gumbel noise is added (Kool et al. 2019, arXiv:1903.06059).

    Args:
        scores: (n_patches,).
        n_keep: number of patches to keep, in 1...n_patches.
        rng: the generator to sample from.
        grid: rows and columns of patches, which do not matter here.

    Returns:
        Patch mask (n_patches,).
    """
    del grid
    mask = np.zeros(len(scores), dtype=np.int8)
    mask[np.argsort(-(scores + rng.gumbel(size=len(scores))))[:n_keep]] = 1
    return mask


def sample_spread(
    scores: NDArray[np.float64],
    n_keep: int,
    rng: np.random.Generator,
    grid: Grid | None = None,
) -> NDArray[np.int8]:
    """Sample `n_keep` patches spread evenly over the image, more where scores are high.

    Systematic sampling along a random space-filling curve: the image's quarters in random order,
    the quarters of each quarter in random order, and so on (GRTS, Stevens and Olsen 2004, J. Am.
    Stat. Assoc. 99). With equal scores each patch has the same probability as with
    `sample_uniform`, but no sample leaves out a large part of the image.

    Args:
        scores: (n_patches,).
        n_keep: number of patches to keep, in 1...n_patches.
        rng: the generator to sample from.
        grid: rows and columns of patches; by default a square.

    Returns:
        Patch mask (n_patches,).

    Raises:
        ValueError: if there is no grid and n_patches is not a square number.
    """
    order = _random_curve(grid_of(len(scores), grid), rng)
    ends = np.cumsum(_inclusion(np.exp(scores - scores.max()), n_keep)[order])
    points = (rng.random() + np.arange(n_keep)) * (ends[-1] / n_keep)
    mask = np.zeros(len(scores), dtype=np.int8)
    mask[order[np.searchsorted(ends, points, side="right")]] = 1
    return mask


Sampler = Callable[[NDArray[np.float64], int, np.random.Generator, Grid | None], NDArray[np.int8]]
"""Maps (scores, n_keep, rng, grid) to a patch mask."""

SAMPLERS: dict[SamplingName, Sampler] = {"uniform": sample_uniform, "spread": sample_spread}
"""Every sampler by the name that agents, wrappers and the command line take."""


def _inclusion(weights: NDArray[np.float64], n_keep: int) -> NDArray[np.float64]:
    """Inclusion probabilities in proportion to the weights, at most 1, with sum `n_keep`."""
    share = np.ones(len(weights))
    free = np.ones(len(weights), dtype=np.bool_)
    while free.any():
        left = n_keep - (~free).sum()
        share[free] = left * weights[free] / weights[free].sum()
        above = share > 1 + 1e-12
        if not above.any():
            break
        share[above], free = 1.0, free & ~above
    return share


def _random_curve(grid: Grid, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of a grid's patches in the order of a random recursive curve of quarters."""
    address = np.zeros(math.prod(grid), dtype=np.int64)
    for parents, children in _quarters(grid):
        ranks = rng.random((int(parents.max()) + 1, 4)).argsort(axis=1)
        address = 4 * address + ranks[parents, children]
    return np.argsort(address)


@cache
def _quarters(grid: Grid) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Each patch's square and its quarter in that square, from the whole grid to single patches.

    The first square has the smallest power of two as its side that covers the grid, so that
    quarters beyond it are empty or smaller.
    """
    rows, columns = np.divmod(np.arange(math.prod(grid)), grid[1])
    n_levels = max(max(grid) - 1, 1).bit_length()
    squares = []
    for level in range(n_levels):
        shift = n_levels - level
        parents = ((rows >> shift) << level) + (columns >> shift)
        children = 2 * ((rows >> shift - 1) & 1) + ((columns >> shift - 1) & 1)
        squares.append((parents, children))
    return squares
