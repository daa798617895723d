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

_PLACES = (0.02, 0.35, 0.7, 0.98)
"""Shares of the budget at which a schedule is described."""


def description(options: GrowingOptions) -> NDArray[np.float64]:
    """A schedule as logarithms of its shares of the patches over the run: (4,), within [-1, 1]."""
    shares = np.array([options.share(place) for place in _PLACES])
    described: NDArray[np.float64] = 1 + np.log2(shares) / 2.5
    return described


def schedule_features(options: Iterable[GrowingOptions]) -> NDArray[np.float64]:
    """Linear, square and mixed terms of each schedule: (n, 14)."""
    z = np.stack([description(one) for one in options])
    mixed = [z[:, first] * z[:, second] for first, second in combinations(range(z.shape[1]), 2)]
    return np.concatenate((z, z**2, np.stack(mixed, axis=1)), axis=1)


def features(context: RunContext, of_schedules: NDArray[np.float64]) -> NDArray[np.float64]:
    """Regression features of schedules in a training: (n, 14 + 6 * 8).

    They are the schedules' terms, and linear and square ones times each feature of the context.

    Args:
        context: of the training.
        of_schedules: `schedule_features`, (n, 14).
    """
    of_context, terms = context.features(), of_schedules[:, :8]
    mixed = (of_context[None, :, None] * terms[:, None, :]).reshape(len(terms), -1)
    return np.concatenate((of_schedules, mixed), axis=1)


class ScheduleModel:
    """Posterior of the weights, from the values of finished runs.

    Only differences between runs of one training count: values and features are centred there, so
    that how hard a training is need not be known. They are scaled there by the spread of the
    values, so that trainings in which accuracies differ more do not count more.

    Args:
        prior_precision: of the weights of schedules, relative to the noise's.
        context_precision: of the weights of schedules times contexts.
    """

    def __init__(self, prior_precision: float, context_precision: float) -> None:
        n_schedule, n_mixed = 14, 48
        self._prior = np.diag([prior_precision] * n_schedule + [context_precision] * n_mixed)
        self._of_candidates = schedule_features(CANDIDATES)
        self.mean: NDArray[np.float64] = np.zeros(n_schedule + n_mixed)
        self._factor: NDArray[Any] = np.linalg.cholesky(self._prior)
        self._noise = 1.0

    def fit(
        self,
        contexts: Sequence[RunContext],
        schedules: Sequence[GrowingOptions],
        values: Sequence[float],
    ) -> None:
        """Learn from finished runs: one entry of each argument for each run."""
        rows, targets = [], []
        for context in dict.fromkeys(contexts):
            own = [place for place, one in enumerate(contexts) if one == context]
            x = features(context, schedule_features(schedules[place] for place in own))
            y = np.array([values[place] for place in own])
            spread = max(float(y.std()), 1e-3)
            rows.append(x - x.mean(axis=0))
            targets.append((y - y.mean()) / spread)
        x, y = np.concatenate(rows), np.concatenate(targets)
        precision = self._prior + x.T @ x
        self.mean = np.asarray(np.linalg.solve(precision, x.T @ y), dtype=np.float64)
        self._factor = np.linalg.cholesky(precision)
        residual = y - x @ self.mean
        self._noise = float((1 + residual @ residual) / (1 + len(y)))

    def sample(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Weights sampled from the posterior."""
        normal = rng.standard_normal(len(self.mean))
        spread = np.linalg.solve(self._factor.T, normal)
        return np.asarray(self.mean + np.sqrt(self._noise) * spread, dtype=np.float64)

    def best(self, context: RunContext, weights: NDArray[np.float64]) -> GrowingOptions:
        """The candidate of the highest value in a training under these weights."""
        return CANDIDATES[int(np.argmax(features(context, self._of_candidates) @ weights))]
