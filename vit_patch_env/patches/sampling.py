"""How a number of patches is drawn from an image's grid: pure functions, by name."""

import math
from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DrawName = Literal["uniform", "spread"]


def draw_uniform(
    scores: NDArray[np.float64], n_keep: int, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Mask (n_patches,) of `n_keep` patches drawn without replacement, by exp(score).

    Of equal scores every set of patches is as likely as another. Drawn as the highest of scores
    with Gumbel noise (Kool et al. 2019, arXiv:1903.06059).
    """
    mask = np.zeros(len(scores), dtype=np.int8)
    mask[np.argsort(-(scores + rng.gumbel(size=len(scores))))[:n_keep]] = 1
    return mask


def draw_spread(
    scores: NDArray[np.float64], n_keep: int, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Mask (n_patches,) of `n_keep` patches spread over the image, more where scores are high.

    Systematic sampling along a curve that visits neighbours in turn, drawn anew each time: the
    image's quarters in random order, each quarter's quarters in random order, and so on (GRTS,
    Stevens and Olsen 2004, J. Am. Stat. Assoc. 99). Each patch is as likely as `draw_uniform` would
    have it where scores are equal, but no draw leaves a large part of the image out.

    Args:
        scores: (n_patches,), a square number of them.
        n_keep: in 1...n_patches.
        rng: of the draw.
    """
    order = _random_curve(math.isqrt(len(scores)), rng)
    ends = np.cumsum(_inclusion(np.exp(scores - scores.max()), n_keep)[order])
    points = (rng.random() + np.arange(n_keep)) * (ends[-1] / n_keep)
    mask = np.zeros(len(scores), dtype=np.int8)
    mask[order[np.searchsorted(ends, points, side="right")]] = 1
    return mask


DRAWS: dict[
    DrawName,
    Callable[[NDArray[np.float64], int, np.random.Generator], NDArray[np.int8]],
] = {"uniform": draw_uniform, "spread": draw_spread}


def _inclusion(weights: NDArray[np.float64], n_keep: int) -> NDArray[np.float64]:
    """Probabilities in proportion to the weights, at most 1, that add up to `n_keep`."""
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
    """Patches of a square grid, neighbours near each other, in an order of the quarters' own."""
    address = np.zeros(side * side, dtype=np.int64)
    for parents, children in _quarters(side):
        ranks = rng.random((int(parents.max()) + 1, 4)).argsort(axis=1)
        address = 4 * address + ranks[parents, children]
    return np.argsort(address)


@cache
def _quarters(side: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """From the whole to the single patch: the square that each patch is in, and its quarter."""
    rows, columns = np.divmod(np.arange(side * side), side)
    n_levels = max(side - 1, 1).bit_length()
    squares = []
    for level in range(n_levels):
        shift = n_levels - level
        parents = ((rows >> shift) << level) + (columns >> shift)
        children = 2 * ((rows >> shift - 1) & 1) + ((columns >> shift - 1) & 1)
        squares.append((parents, children))
    return squares
