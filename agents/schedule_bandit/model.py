"""What a schedule is worth in a training: a Gaussian process on the values of runs."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular

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

_CLOSE = 0.02
"""Values, such as accuracies, that differ by less are about equal."""

_LEAST_SPREAD = 0.25
"""The least standard deviation of a training's values that they are divided by."""

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
    not count more; differences from the best one count linearly if they are small, and as their
    logarithms if they are large, as those of diverged runs are.

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
            targets[training] = _scaled(
                [schedules[one] for one in training], np.array([values[one] for one in training])
            )
            same[np.ix_(training, training)] = 1
        covariance = self._covariance(self._x, self._z, self._x, self._z) + _OFFSET * same
        covariance[np.diag_indices_from(covariance)] += self._options.noise
        self._factor = np.linalg.cholesky(covariance)
        self._weights = np.asarray(cho_solve((self._factor, True), targets))

    def sampled(
        self, context: RunContext, among: Sequence[GrowingOptions], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """A sample of what schedules are worth in a training, (len(among),)."""
        mean, covariance = self.posterior(context, among)
        covariance[np.diag_indices_from(covariance)] += 1e-6  # rounding errors are smaller
        return mean + np.linalg.cholesky(covariance) @ rng.standard_normal(len(mean))

    def safe(self, context: RunContext, among: Sequence[GrowingOptions]) -> NDArray[np.float64]:
        """What schedules are worth at least, (len(among),), by all that is known.

        Their mean less a number of standard deviations: one that did well in few runs is not
        preferred to one that did well in many.
        """
        mean, covariance = self.posterior(context, among)
        deviation = np.sqrt(np.maximum(covariance.diagonal(), 0))
        return np.asarray(mean - self._options.caution * deviation)

    def posterior(
        self, context: RunContext, among: Sequence[GrowingOptions]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (n,) and covariance (n, n) of what schedules are worth in a training.

        In standard deviations of the values of schedules there.

        Args:
            context: of the training.
            among: the schedules.
        """
        x, z = _descriptions(among), np.tile(context.features(), (len(among), 1))
        with_runs = self._covariance(x, z, self._x, self._z)
        explained = np.asarray(solve_triangular(self._factor, with_runs.T, lower=True))
        mean = with_runs @ self._weights
        return mean, self._covariance(x, z, x, z) - explained.T @ explained

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


def mean_values(
    schedules: Iterable[GrowingOptions], values: Iterable[float]
) -> dict[GrowingOptions, float]:
    """The mean value of the runs of each schedule; one entry of each argument for each run."""
    found: dict[GrowingOptions, list[float]] = {}
    for one, value in zip(schedules, values, strict=True):
        found.setdefault(one, []).append(value)
    return {one: float(np.mean(of_one)) for one, of_one in found.items()}


def _scaled(
    schedules: Sequence[GrowingOptions], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values of a training's runs around 0, (n,); each schedule counts once for their scale."""
    means = np.array(list(mean_values(schedules, values).values()))
    best = means.max()
    close = max(float(np.median(best - means)), _CLOSE)

    def compressed(found: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(-np.arcsinh((best - found) / close))

    typical = compressed(means)
    spread = max(float(typical.std()), _LEAST_SPREAD)
    return np.asarray((compressed(values) - typical.mean()) / spread)


def _by_training(contexts: Sequence[RunContext]) -> list[list[int]]:
    """Places of the runs of each training, whatever their order."""
    trainings: list[list[int]] = []
    for place in sorted(range(len(contexts)), key=lambda one: contexts[one].numbers()):
        for training in trainings:
            if contexts[place].is_of_training(contexts[training[0]]):
                training.append(place)
                break
        else:
            trainings.append([place])
    return trainings
