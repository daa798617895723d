"""Statistics over seeds: means with bootstrap intervals, paired comparisons, Pareto fronts."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import bootstrap

MIN_SEEDS = 10
"""With fewer seeds, a bootstrap interval is too narrow."""

_TOLERANCE = 1e-9  # rounding of sums, so that a ratio of equals is 1


class Estimate(NamedTuple):
    """A mean over seeds and its 95 % bootstrap interval.

    Attributes:
        mean: NaN for an empty sample.
        low: lower end of the interval; NaN with fewer than two values.
        high: upper end of the interval.
        lowest: smallest value.
        highest: largest value.
        n: number of values.
    """

    mean: float
    low: float
    high: float
    lowest: float
    highest: float
    n: int

    def side(self, value: float) -> int | None:
        """-1 or 1 if the interval is below or above a value, 0 if it contains it, else None."""
        if self.n < 2:
            return None
        if self.high < value - _TOLERANCE:
            return -1
        return 1 if self.low > value + _TOLERANCE else 0


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and percentile bootstrap interval of the finite values.

    The random generator's seed is fixed: the same values give the same interval.
    """
    sample = np.array([value for value in values if math.isfinite(value)])
    if sample.size == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    low = high = math.nan
    if sample.size > 1:
        rng = np.random.default_rng(0)
        low, high = bootstrap(
            (sample,), np.mean, confidence_level=0.95, method="percentile", rng=rng
        ).confidence_interval
    return Estimate(
        float(sample.mean()), float(low), float(high),
        float(sample.min()), float(sample.max()), int(sample.size),
    )  # fmt: skip


def paired(
    values: Mapping[int, float],
    reference: Mapping[int, float],
    function: Callable[[float, float], float],
) -> Estimate:
    """Estimate of a paired difference or ratio, over the seeds that both have."""
    shared = [seed for seed in values if seed in reference]
    return estimate(function(values[seed], reference[seed]) for seed in shared)


def difference(value: float, reference: float) -> float:
    """The value minus the reference."""
    return value - reference


def ratio(value: float, reference: float) -> float:
    """The value divided by the reference; NaN for a reference of 0."""
    return value / reference if reference else math.nan


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (cost, value) that no other dominates, from cheap to expensive."""
    front = [name for name in points if not dominating(name, points)]
    return sorted(front, key=lambda name: points[name])


def dominating(name: str, points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points that dominate one: no higher cost, no lower value, not both equal."""
    cost, value = points[name]
    return [
        other
        for other, (other_cost, other_value) in points.items()
        if other_cost <= cost
        and other_value >= value
        and (other_cost, other_value) != (cost, value)
    ]


def time_to(level: float, accuracy: NDArray[np.float64], seconds: NDArray[np.float64]) -> float:
    """Seconds at the end of the first epoch whose accuracy is at least the level; else NaN."""
    reached = np.flatnonzero(accuracy >= level - _TOLERANCE)
    return float(seconds[reached[0]]) if reached.size else math.nan


def round_levels(runs: Sequence[NDArray[np.float64]], n_levels: int = 3) -> list[float]:
    """Round accuracies for the time to accuracy: up to the highest that half of the runs reach.

    They are multiples of 5 %, 10 % apart where possible, and above the median accuracy after the
    first epoch.

    Args:
        runs: (n_epochs,) accuracies of each run, in [0, 1].
        n_levels: maximum number of levels.

    Returns:
        The levels, ascending.
    """
    histories = [run[np.isfinite(run)] for run in runs]
    histories = [history for history in histories if history.size]
    if not histories:
        return []
    best = sorted((float(history.max()) for history in histories), reverse=True)
    first = float(np.median([history[0] for history in histories]))
    top = math.floor(20 * best[(len(best) - 1) // 2] + _TOLERANCE) * 5  # in percent
    step = 10 if top - 10 > 100 * first else 5
    levels = [top - step * index for index in range(n_levels)]
    return [level / 100 for level in sorted(levels) if level > 100 * first]


def spread_out(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions close to the values, at least a gap apart if [low, high] is large enough."""
    if not values:
        return []
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    order, offsets = np.argsort(values, kind="stable"), gap * np.arange(len(values))
    # Least squares: the positions minus their offsets must not decrease.
    nearest = isotonic_regression(np.asarray(values)[order] - offsets).x
    positions = np.empty(len(values))
    positions[order] = np.clip(nearest, low, high - offsets[-1]) + offsets
    return [float(position) for position in positions]
