"""The steps that a run can have, by the number of patches, for each budget."""

from collections.abc import Mapping
from typing import NamedTuple

from vit_patch_env.penalty import StepKind
from vit_patch_env.training.run_costs import RunCosts

LEAST_SECONDS = 5e-4
"""No step of any model is faster: it calls hundreds of operations from Python."""

FASTER = 4.0
"""A step takes at least the seconds per FLOP of the fastest one so far, over this."""


class _Range(NamedTuple):
    """Numbers of patches; FLOPs of a step with its observation, and without over all patches'."""

    fewest: int
    most: int
    least_flops: int
    least_share: float
    most_share: float


def kinds_in_steps(n_steps: int, costs: RunCosts) -> list[StepKind]:
    """The kinds of so many steps, whatever they cost."""
    return [_kind(one, n_steps) for one in _ranges(costs)]


def kinds_in_flops(total: int, costs: RunCosts) -> list[StepKind]:
    """The kinds of steps that so many FLOPs pay for."""
    return [_kind(one, total / one.least_flops) for one in _ranges(costs)]


def kinds_in_seconds(
    seconds: float, fastest: Mapping[int, float], costs: RunCosts
) -> list[StepKind]:
    """The kinds of steps that may fit into so many seconds, if the agent takes no time.

    A clock has no exact bound. Assumed are `LEAST_SECONDS` and `FASTER`: a step takes seconds in
    proportion to its FLOPs or more, as fewer patches leave more of it to fixed costs.

    Args:
        seconds: of the budget.
        fastest: seconds of the fastest steps so far, by number of patches; empty if none is known.
        costs: of the run.
    """
    try:
        ranges = _ranges(costs)
        rate = min((time / costs.least_step(n) for n, time in fastest.items()), default=0.0)
    except ValueError:  # a model whose FLOPs cannot be counted
        ranges, rate = [_Range(1, costs.n_patches, 0, 1.0, 1.0)], 0.0
    return [
        _kind(one, seconds / max(LEAST_SECONDS, rate * one.least_flops / FASTER)) for one in ranges
    ]


def _kind(one: _Range, n_steps: float) -> StepKind:
    return StepKind(one.fewest, one.most, n_steps, one.least_share, one.most_share)


def _ranges(costs: RunCosts) -> list[_Range]:
    """Ranges of numbers of patches: 1, 2 to 3, 4 to 7, and so on; the last is all patches.

    More patches cost more FLOPs, so a range's first number bounds them. Where they depend on the
    images, only those of one patch are known.
    """
    first = [1]
    while not costs.of_images and first[-1] < costs.n_patches:
        first.append(min(2 * first[-1], costs.n_patches))
    shares = [costs.shares(n) for n in first]
    ends = [n - 1 for n in first[1:]] + [costs.n_patches]
    most = [max(shares[i if n == ends[i] else i + 1]) for i, n in enumerate(first[:-1])]
    return [
        _Range(n, end, costs.least_step(n), min(few), many)
        for n, end, few, many in zip(first, ends, shares, [*most, 1.0], strict=True)
    ]
