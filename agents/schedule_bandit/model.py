"""What a schedule is worth in a training: a Gaussian process on the values of runs."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.agents.fixed_rules.growing import GrowingOptions
from vit_patch_env.agents.schedule_bandit.context import N_FEATURES, RunContext
from vit_patch_env.agents.schedule_bandit.options import ScheduleOptions

CANDIDATES: tuple[GrowingOptions, ...] = (
    GrowingOptions(first_share=1.0, power=None),
    *(
        GrowingOptions(first_share=2.0 ** (-half / 2), power=power, all_share=all_share)
        for half, power, all_share in product(
            range(1, 11), (None, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0), (0.0, 0.1, 0.2, 0.3)
        )
    ),
)
"""The schedules to choose from."""

_PLACES = (0.02, 0.35, 0.7, 0.85, 0.98)
"""Shares of the budget at which a schedule is described."""

_WORST = 1.5
"""The least value of a run, in distances from the median to the best of its training."""

_SMALLEST_SPREAD = 0.005
"""The least standard deviation of a training's values: of accuracies, smaller ones are noise."""

_OFFSET = 100.0
"""Prior variance of what all runs of a training have in common: how hard it is."""


@cache
def description(options: GrowingOptions) -> NDArray[np.float64]:
    """A schedule as logarithms of its shares of the patches over the run: (5,), within [-1, 1]."""
    shares = np.array([options.share(place) for place in _PLACES])
    described: NDArray[np.float64] = 1 + np.log2(shares) / 2.5
    described.flags.writeable = False
    return described


def _descriptions(schedules: Iterable[GrowingOptions]) -> NDArray[np.float64]:
    return np.stack([description(one) for one in schedules])


def _near(
    first: NDArray[np.float64], second: NDArray[np.float64], scale: float
) -> NDArray[np.float64]:
    """How near points are, from 1 to 0: (n, m) for points (n, k) and (m, k)."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)
    distances = np.maximum(squares - 2 * first @ second.T, 0)
    return np.asarray(np.exp(-distances / (2 * scale**2)))


class ScheduleModel:
    """A Gaussian process over schedules and trainings, conditioned on the values of finished runs.

    Schedules are alike if their numbers of patches are over the whole run, and trainings if they
    are as long and few patches cost as much. The value of a schedule is a part that all trainings
    have in common and one that trainings have in common the more they are alike: far from all that
    is known, the best schedule is that which is best on average.

    Only differences between runs of one training count, so that how hard it is need not be known.
    Values are scaled there by their spread, so that trainings in which accuracies differ more do
    not count more. Runs that are far worse than most, such as diverged ones, count as worse by a
    bounded amount.

    Args:
        options: the process's variances and scales.
    """

    def __init__(self, options: ScheduleOptions) -> None:
        self._options = options
        self._forget()

    def _forget(self) -> None:
        self._x = np.zeros((0, len(_PLACES)))
        self._z = np.zeros((0, N_FEATURES))
        self._factor: NDArray[Any] = np.zeros((0, 0))
        self._weights = np.zeros(0)

    def fit(
        self,
        contexts: Sequence[RunContext],
        schedules: Sequence[GrowingOptions],
        values: Sequence[float],
    ) -> None:
        """Learn from finished runs, and from no others: one entry of each argument for each run."""
        self._forget()
        if not schedules:
            return
        self._x = _descriptions(schedules)
        self._z = np.stack([one.features() for one in contexts])
        targets, same = np.zeros(len(values)), np.zeros((len(values),) * 2)
        for training in _by_training(contexts):
            y = np.array([values[one] for one in training])
            y = np.maximum(y, y.max() - _WORST * max(y.max() - np.median(y), 1e-3))
            targets[training] = (y - y.mean()) / max(float(y.std()), _SMALLEST_SPREAD)
            same[np.ix_(training, training)] = 1
        covariance = self._covariance(self._x, self._z, self._x, self._z) + _OFFSET * same
        covariance[np.diag_indices_from(covariance)] += self._options.noise
        self._factor = np.linalg.cholesky(covariance)
        self._weights = _solved(self._factor.T, _solved(self._factor, targets))

    def values(
        self,
        context: RunContext,
        among: Sequence[GrowingOptions] = CANDIDATES,
        rng: np.random.Generator | None = None,
    ) -> NDArray[np.float64]:
        """What schedules are worth in a training, (len(among),), in standard deviations.

        Args:
            context: of the training.
            among: the schedules.
            rng: samples values of the posterior; None for their means.
        """
        x, z = _descriptions(among), np.tile(context.features(), (len(among), 1))
        with_runs = self._covariance(x, z, self._x, self._z)
        mean = with_runs @ self._weights
        if rng is None:
            return np.asarray(mean)
        explained = _solved(self._factor, with_runs.T)
        covariance = self._covariance(x, z, x, z) - explained.T @ explained
        covariance[np.diag_indices_from(covariance)] += 1e-6  # rounding errors are smaller
        return np.asarray(mean + np.linalg.cholesky(covariance) @ rng.standard_normal(len(x)))

    def best(
        self,
        context: RunContext,
        among: Sequence[GrowingOptions] = CANDIDATES,
        rng: np.random.Generator | None = None,
    ) -> GrowingOptions:
        """The schedule of the highest value in a training; arguments as those of `values`."""
        return among[int(np.argmax(self.values(context, among, rng)))]

    def _covariance(
        self,
        x: NDArray[np.float64],
        z: NDArray[np.float64],
        other_x: NDArray[np.float64],
        other_z: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Prior covariance (n, m) of schedules x in trainings z, and others."""
        common, options = self._options.common_share, self._options
        of_trainings = common + (1 - common) * _near(z, other_z, options.context_scale)
        return _near(x, other_x, options.schedule_scale) * of_trainings


def _solved(triangular: NDArray[Any], right: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.solve(triangular, right), dtype=np.float64)


def _by_training(contexts: Sequence[RunContext]) -> list[list[int]]:
    """Places of the runs of each training."""
    trainings: list[list[int]] = []
    for place, one in enumerate(contexts):
        for training in trainings:
            if one.is_of_training(contexts[training[0]]):
                training.append(place)
                break
        else:
            trainings.append([place])
    return trainings
