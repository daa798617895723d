"""Values over the course of training, averaged over a method's seeds."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.experiments.compare.results import Comparison, RunResult
from vit_patch_env.experiments.report.metrics import ComparisonMetrics

_N_POINTS = 500
"""Points of a curve over the share of the budget."""


class LearningCurve(NamedTuple):
    """Validation accuracy against the cost of training, averaged over seeds; (n_points,) each."""

    cost: NDArray[np.float64]
    accuracy: NDArray[np.float64]


class SelectionCurve(NamedTuple):
    """Number of selected patches over training, averaged over seeds; (n_points,) each.

    Attributes:
        x: training steps from 1, or shares of the budget where runs differ in their steps.
        n_selected: patches at each of them.
    """

    x: NDArray[np.float64]
    n_selected: NDArray[np.float64]


def learning_curve(metrics: ComparisonMetrics, method: str) -> LearningCurve | None:
    """A method's learning curve; None if all its runs diverged or, over time, were disturbed.

    Runs can differ in their number of epochs. They are averaged at shares of the budget: those at
    the ends of the longest run's epochs, from where all runs have a first value.
    """
    runs = metrics.runs(method, metrics.main_cost.metric)
    if not runs:
        return None
    shares = max((run.progress for run in runs), key=len)
    shares = shares[shares >= max(run.progress[0] for run in runs)]

    def mean(values: Callable[[RunResult], NDArray[np.float64]]) -> NDArray[np.float64]:
        resampled = [np.interp(shares, run.progress, values(run)) for run in runs]
        return np.asarray(np.mean(resampled, axis=0))

    return LearningCurve(mean(metrics.main_cost.over_run), mean(lambda run: run.val_accuracy))


def selection_curve(metrics: ComparisonMetrics, method: str) -> SelectionCurve | None:
    """The number of patches that a method selected over training; None if all runs diverged."""
    comparison = metrics.comparison
    runs = comparison.valid_runs(method)
    if not runs:
        return None
    if comparison.budget == "epochs":  # all runs have the same number of steps
        n_steps = min(len(run.n_selected) for run in runs)
        x = np.arange(1.0, n_steps + 1)
        n_selected = [run.n_selected[:n_steps] for run in runs]
    else:
        x = np.arange(_N_POINTS) / _N_POINTS
        n_selected = [run.n_selected[_steps_at(comparison, run, x)] for run in runs]
    return SelectionCurve(x, np.asarray(np.mean(n_selected, axis=0)))


def selected_share(metrics: ComparisonMetrics, method: str) -> NDArray[np.float64] | None:
    """(n_patches,) share of the steps that selected each patch; None if all runs diverged."""
    comparison = metrics.comparison
    runs = comparison.valid_runs(method)
    if not runs:
        return None
    shares = [
        np.average(run.selected, axis=0, weights=_steps_per_epoch(comparison, run)) for run in runs
    ]
    return np.asarray(np.mean(shares, axis=0))


def _steps_per_epoch(comparison: Comparison, run: RunResult) -> NDArray[np.float64] | None:
    """(n_epochs,) steps of each epoch; None if all epochs have the same number."""
    if comparison.budget == "epochs":
        return None
    n_steps = comparison.steps_per_epoch
    n_full = len(run.epochs) - 1  # the budget can end within the last epoch
    return np.array([n_steps] * n_full + [len(run.n_selected) - n_full * n_steps])


def _steps_at(
    comparison: Comparison, run: RunResult, shares: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The steps, from 0, at which a run had used these shares of its budget."""
    n_steps = _steps_per_epoch(comparison, run)
    assert n_steps is not None
    ends = np.concatenate(([0], np.cumsum(n_steps)))
    # Interpolated within an epoch, as if all its steps cost the same.
    steps = np.interp(shares, np.concatenate(([0], run.progress)), ends)
    return np.minimum(steps.astype(np.int64), len(run.n_selected) - 1)
