"""What a schedule is worth in a training: a Bayesian linear model of runs' values."""

from collections.abc import Iterable, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.agents.fixed_rules.growing import GrowingOptions
from vit_patch_env.agents.schedule_bandit.context import RunContext

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

N_SCHEDULE = 20
"""Terms of a schedule: its description, the squares, and the products of two."""

N_MIXED = 2 * len(_PLACES)
"""Products of the description and the features of a training."""

_WORST = 1.5
"""The least value of a run, in distances from the median to the best of its training."""


def description(options: GrowingOptions) -> NDArray[np.float64]:
    """A schedule as logarithms of its shares of the patches over the run: (5,), within [-1, 1]."""
    shares = np.array([options.share(place) for place in _PLACES])
    described: NDArray[np.float64] = 1 + np.log2(shares) / 2.5
    return described


def schedule_features(options: Iterable[GrowingOptions]) -> NDArray[np.float64]:
    """Linear, square and mixed terms of each schedule: (n, 20)."""
    z = np.stack([description(one) for one in options])
    mixed = [z[:, first] * z[:, second] for first, second in combinations(range(z.shape[1]), 2)]
    return np.concatenate((z, z**2, np.stack(mixed, axis=1)), axis=1)


def features(context: RunContext, of_schedules: NDArray[np.float64]) -> NDArray[np.float64]:
    """Regression features of schedules in a training: (n, 20 + 10).

    They are the schedules' terms, and their descriptions times each feature of the context.

    Args:
        context: of the training.
        of_schedules: `schedule_features`, (n, 20).
    """
    of_context, terms = context.features(), of_schedules[:, : len(_PLACES)]
    mixed = (of_context[None, :, None] * terms[:, None, :]).reshape(len(terms), -1)
    return np.concatenate((of_schedules, mixed), axis=1)


class ScheduleModel:
    """Posterior of the weights, from the values of finished runs.

    Only differences between runs of one training count: values and features are centred there, so
    that how hard a training is need not be known. They are scaled there by the spread of the
    values, so that trainings in which accuracies differ more do not count more. Runs that are far
    worse than most, such as diverged ones, count as worse by a bounded amount.

    Args:
        prior_precision: of the weights of schedules, relative to the noise's.
        context_precision: of the weights of schedules times contexts.
    """

    def __init__(self, prior_precision: float, context_precision: float) -> None:
        self._prior = np.diag([prior_precision] * N_SCHEDULE + [context_precision] * N_MIXED)
        self._forget()

    def _forget(self) -> None:
        self.mean: NDArray[np.float64] = np.zeros(len(self._prior))
        self._factor: NDArray[Any] = np.linalg.cholesky(self._prior)
        self._noise = 1.0

    def fit(
        self,
        contexts: Sequence[RunContext],
        schedules: Sequence[GrowingOptions],
        values: Sequence[float],
    ) -> None:
        """Learn from finished runs, and from no others: one entry of each argument for each run."""
        self._forget()
        rows, targets = [], []
        for training in _by_training(contexts):
            if len(training) < 2:
                continue  # nothing to compare with
            x = features(
                contexts[training[0]], schedule_features(schedules[one] for one in training)
            )
            y = np.array([values[one] for one in training])
            best = y.max()
            y = np.maximum(y, best - _WORST * max(best - np.median(y), 1e-3))
            rows.append(x - x.mean(axis=0))
            targets.append((y - y.mean()) / max(float(y.std()), 1e-3))
        if not rows:
            return
        x, y = np.concatenate(rows), np.concatenate(targets)
        precision = self._prior + x.T @ x
        self.mean = np.asarray(np.linalg.solve(precision, x.T @ y), dtype=np.float64)
        self._factor = np.linalg.cholesky(precision)
        residual = y - x @ self.mean
        # Centring has used a degree of freedom of each training.
        self._noise = float((1 + residual @ residual) / (1 + len(y) - len(rows)))

    def sample(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Weights sampled from the posterior."""
        normal = rng.standard_normal(len(self.mean))
        spread = np.linalg.solve(self._factor.T, normal)
        return np.asarray(self.mean + np.sqrt(self._noise) * spread, dtype=np.float64)

    def best(
        self,
        context: RunContext,
        weights: NDArray[np.float64],
        among: Sequence[GrowingOptions] = CANDIDATES,
    ) -> GrowingOptions:
        """The schedule of the highest value in a training under these weights."""
        return among[int(np.argmax(features(context, schedule_features(among)) @ weights))]


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
