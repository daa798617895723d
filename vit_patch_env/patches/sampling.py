"""Random sampling of patch masks: pure functions, by name in `SAMPLERS`."""

import math
from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.checks import InputError

SamplingName = Literal["uniform", "spread"]


def sample_uniform(
    scores: NDArray[np.float64], n_keep: int, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Sample `n_keep` patches without replacement, with weights exp(score).

    With equal scores all sets of patches are equally likely. Gumbel top-k: the highest scores after
    Gumbel noise is added (Kool et al. 2019, arXiv:1903.06059).

    Args:
        scores: (n_patches,).
        n_keep: number of patches to keep, in 1...n_patches.
        rng: the generator to sample from.

    Returns:
        Patch mask (n_patches,).
    """
    mask = np.zeros(len(scores), dtype=np.int8)
    mask[np.argsort(-(scores + rng.gumbel(size=len(scores))))[:n_keep]] = 1
    return mask


def sample_spread(
    scores: NDArray[np.float64], n_keep: int, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Sample `n_keep` patches spread evenly over the image, more where scores are high.

    Systematic sampling along a random space-filling curve: the image's quarters in random order,
    the quarters of each quarter in random order, and so on (GRTS, Stevens and Olsen 2004, J. Am.
    Stat. Assoc. 99). With equal scores each patch has the same probability as with
    `sample_uniform`, but no sample leaves out a large part of the image.

    Args:
        scores: (n_patches,), where n_patches is a square number.
        n_keep: number of patches to keep, in 1...n_patches.
        rng: the generator to sample from.

    Returns:
        Patch mask (n_patches,).
    """
    order = _random_curve(math.isqrt(len(scores)), rng)
    ends = np.cumsum(_inclusion(np.exp(scores - scores.max()), n_keep)[order])
    points = (rng.random() + np.arange(n_keep)) * (ends[-1] / n_keep)
    mask = np.zeros(len(scores), dtype=np.int8)
    mask[order[np.searchsorted(ends, points, side="right")]] = 1
    return mask


def check_square(n_patches: int) -> None:
    """Require the patches to form a square grid.

    Raises:
        ValueError: "n_patches must be a square number, got 15".
    """
    if math.isqrt(n_patches) ** 2 != n_patches:
        raise InputError(f"n_patches must be a square number, got {n_patches}")


Sampler = Callable[[NDArray[np.float64], int, np.random.Generator], NDArray[np.int8]]
"""Maps (scores, n_keep, rng) to a patch mask."""

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


def _random_curve(side: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of a square grid's patches in the order of a random recursive curve of quarters."""
    address = np.zeros(side * side, dtype=np.int64)
    for parents, children in _quarters(side):
        ranks = rng.random((int(parents.max()) + 1, 4)).argsort(axis=1)
        address = 4 * address + ranks[parents, children]
    return np.argsort(address)


@cache
def _quarters(side: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Each patch's square and its quarter in that square, from the whole grid to single patches."""
    rows, columns = np.divmod(np.arange(side * side), side)
    n_levels = max(side - 1, 1).bit_length()
    squares = []
    for level in range(n_levels):
        shift = n_levels - level
        parents = ((rows >> shift) << level) + (columns >> shift)
        children = 2 * ((rows >> shift - 1) & 1) + ((columns >> shift - 1) & 1)
        squares.append((parents, children))
    return squares
