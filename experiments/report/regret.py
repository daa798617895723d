"""How much accuracy a method loses to the best fixed rule of each task, and on average."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.experiments.compare.task_results import Scores
from vit_patch_env.experiments.report.statistics import Estimate

_N_RESAMPLES = 9999


class Best(NamedTuple):
    """The best of some methods on a task.

    Attributes:
        method: its name.
        accuracy: its mean over seeds, in [0, 1].
    """

    method: str
    accuracy: float


def means(scores: Scores) -> dict[str, dict[str, float]]:
    """Mean accuracies over seeds, by task and method."""
    return {
        task: {
            method: float(np.mean(list(runs.values()))) for method, runs in methods.items() if runs
        }
        for task, methods in scores.items()
    }


def best_on_each(scores: Scores, methods: Collection[str]) -> dict[str, Best]:
    """The best of these methods on each task that two or more of them were run on.

    Where there is one alone, nothing was searched, and it would lose nothing.
    """
    found = {}
    for task, accuracies in means(scores).items():
        known = {method: one for method, one in accuracies.items() if method in methods}
        if len(known) > 1:
            method = max(known, key=lambda name: known[name])
            found[task] = Best(method, known[method])
    return found


def best_on_average(scores: Scores, methods: Collection[str]) -> str | None:
    """The method with the highest mean accuracy, of those that were run on every task."""
    accuracies = means(scores)
    everywhere = [method for method in methods if all(method in one for one in accuracies.values())]
    if not everywhere or not accuracies:
        return None
    average = {
        method: np.mean([one[method] for one in accuracies.values()]) for method in everywhere
    }
    return max(average, key=lambda name: average[name])


def regrets(scores: Scores, method: str, best: dict[str, Best]) -> dict[str, float]:
    """The accuracy that a method loses to the best one, by task, of those it was run on."""
    accuracies = means(scores)
    return {
        task: one.accuracy - accuracies[task][method]
        for task, one in best.items()
        if method in accuracies[task]
    }


def hierarchical(samples: list[NDArray[np.float64]]) -> Estimate:
    """The mean of means of groups, and its 95 % interval by a bootstrap of groups and values.

    Groups (tasks) are resampled, and within each of them its values (seeds), so that the interval
    is one for other tasks and seeds of the same kind. With few tasks it is too narrow, as every
    bootstrap. The random generator's seed is fixed.

    Args:
        samples: values of each group, each of at least one.
    """
    if not samples:
        return Estimate(np.nan, np.nan, np.nan, np.nan, np.nan, 0)
    of_groups = np.array([sample.mean() for sample in samples])
    low = high = np.nan
    if len(samples) > 1:
        rng = np.random.default_rng(0)
        resampled = np.stack(
            [rng.choice(one, (_N_RESAMPLES, len(samples), len(one))).mean(-1) for one in samples],
            axis=-1,
        )  # (resamples, places, groups): a mean of each group for each place that it may take
        drawn = rng.integers(len(samples), size=(_N_RESAMPLES, len(samples)))
        picked = np.take_along_axis(resampled, drawn[..., None], axis=-1)[..., 0]
        low, high = np.quantile(picked.mean(axis=1), [0.025, 0.975])
    return Estimate(
        float(of_groups.mean()), float(low), float(high),
        float(of_groups.min()), float(of_groups.max()), len(samples),
    )  # fmt: skip


def paired_differences(scores: Scores, method: str, reference: str) -> dict[str, list[float]]:
    """Differences of accuracy by task, of the seeds that both methods have."""
    found = {}
    for task, methods in scores.items():
        runs, others = methods.get(method, {}), methods.get(reference, {})
        shared = [runs[seed] - others[seed] for seed in runs if seed in others]
        if shared:
            found[task] = shared
    return found


def profile(losses: Collection[float], limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the tasks on which a method loses at most so much: (n_limits,).

    Args:
        losses: its regrets.
        limits: ascending, (n_limits,).
    """
    values = np.array(sorted(losses))
    return np.searchsorted(values, limits + 1e-12, side="right") / max(len(values), 1)
