"""The figures of a comparison, method by method over its seeds."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.results import Comparison, RunResult, cumulated
from experiments.statistics import Estimate, estimate, paired, ratio, round_levels, time_to

FULL, AGENT, CONTROL = "simple_vit", "agentvit", "random_matched"
"""All patches; the paper's agent; as many random patches as that agent used at each step."""

GROUPS = {
    "four": "The paper's Table 2",
    "paper": "More agents",
    "rule": "Fixed rules",
    "rival": "Rivals",
}


class PaperRow(NamedTuple):
    """A row of the paper's Table 2; training on a Tesla K80, seconds."""

    seconds: float
    accuracy: float
    precision: float
    recall: float
    f1: float


PAPER = {
    "vit": PaperRow(5955, 0.8377, 0.8136, 0.8571, 0.8348),
    FULL: PaperRow(4870, 0.7844, 0.7917, 0.7857, 0.7886),
    "ats_vit": PaperRow(5813, 0.7429, 0.7324, 0.7544, 0.7432),
    AGENT: PaperRow(3730, 0.8011, 0.8013, 0.8010, 0.7997),
}

MEASURES: dict[str, Callable[[RunResult], float]] = {
    "seconds": lambda run: run.seconds,
    "accuracy": lambda run: run.test("accuracy"),
    "precision": lambda run: run.test("precision"),
    "recall": lambda run: run.test("recall"),
    "f1": lambda run: run.test("f1"),
    "own_accuracy": lambda run: run.test("accuracy", "agent_patches"),
    "n_selected": lambda run: run.n_patches,
    "flops": lambda run: run.figure("flops"),
    "agent_share": lambda run: ratio(run.figure("agent_seconds"), run.seconds),
    "peak_memory": lambda run: run.figure("peak_memory_bytes"),
}
"""Figures of a run, by name: seconds of training, shares in [0, 1], FLOPs, bytes."""


class Curve(NamedTuple):
    """A method's validation accuracy over its training, averaged over seeds epoch by epoch."""

    seconds: NDArray[np.float64]
    flops: NDArray[np.float64]
    accuracy: NDArray[np.float64]


class Measures:
    """Figures of the runs that did not diverge.

    Args:
        comparison: with at least one finished run.

    Attributes:
        comparison: whose figures these are.
        methods: with at least one finished run, in the tables' order.
        levels: round accuracies to time, ascending.
        full_accuracy: validation accuracy that SimpleViT64 ends at, over its seeds; not a number
            without it.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.methods = [method for methods in self.blocks().values() for method in methods]
        sound = [run for method in self.methods for run in comparison.sound_runs(method)]
        self.levels = round_levels([run.val_accuracy for run in sound])
        full = estimate(float(run.val_accuracy[-1]) for run in comparison.sound_runs(FULL))
        self.full_accuracy = full.mean

    def blocks(self) -> dict[str, list[str]]:
        """Methods by group, as the tables show them: the paper's four first."""
        blocks: dict[str, list[str]] = {name: [] for name in GROUPS}
        blocks["four"] = [name for name in PAPER if name in self.comparison.methods]
        for method in self.comparison.methods:
            if method not in PAPER:
                group = self.comparison.group(method)
                blocks[group if group in GROUPS else "rival"].append(method)
        return {name: methods for name, methods in blocks.items() if methods}

    def title(self, method: str) -> str:
        """What a method is called."""
        return self.comparison.title(method)

    def values(self, method: str, measure: str) -> dict[int, float]:
        """A figure by seed, where it is finite."""
        figures = {run.seed: MEASURES[measure](run) for run in self.comparison.sound_runs(method)}
        return {seed: value for seed, value in figures.items() if math.isfinite(value)}

    def estimate(self, method: str, measure: str) -> Estimate:
        """A figure's mean over the seeds."""
        return estimate(self.values(method, measure).values())

    def mean(self, method: str, measure: str) -> float:
        """A figure's mean over the seeds, without its interval."""
        values = list(self.values(method, measure).values())
        return sum(values) / len(values) if values else math.nan

    def compare(
        self, method: str, reference: str, measure: str, by: Callable[[float, float], float]
    ) -> Estimate:
        """A figure's paired difference or ratio, over the seeds that both methods have."""
        return paired(self.values(method, measure), self.values(reference, measure), by)

    def points(self, cost: str) -> dict[str, tuple[float, float]]:
        """Mean cost and mean test accuracy of every method that has both."""
        points = {
            method: (self.mean(method, cost), self.mean(method, "accuracy"))
            for method in self.methods
        }
        return {method: point for method, point in points.items() if all(map(math.isfinite, point))}

    def flops_unit(self) -> tuple[str, float]:
        """The unit in which training FLOPs are easy to read: its name and its size."""
        largest = max((cost for cost, _ in self.points("flops").values()), default=0.0)
        return ("PFLOP", 1e15) if largest >= 1e15 else ("TFLOP", 1e12)

    def all_levels(self) -> dict[str, float]:
        """Accuracies to time by their names, round ones and the one SimpleViT64 ends at."""
        levels = {f"{level:.0%}": level for level in self.levels}
        if math.isfinite(self.full_accuracy):
            levels[f"{self.title(FULL)}'s final {self.full_accuracy:.1%}"] = self.full_accuracy
        return levels

    def times_to(self, method: str, level: float) -> list[float]:
        """Seconds to a validation accuracy by seed; not a number where it was not reached."""
        return [
            time_to(level, run.val_accuracy, run.epoch_seconds)
            for run in self.comparison.sound_runs(method)
        ]

    def curve(self, method: str) -> Curve | None:
        """The method's learning curve; None if all its runs diverged."""
        runs = self.comparison.sound_runs(method)
        if not runs:
            return None
        return Curve(
            np.mean([run.epoch_seconds for run in runs], axis=0),
            np.mean([cumulated(run.epochs["flops"]) for run in runs], axis=0),
            np.mean([run.val_accuracy for run in runs], axis=0),
        )

    def patches_per_step(self, method: str) -> NDArray[np.float64] | None:
        """Patches at each step, averaged over seeds; None if all its runs diverged."""
        runs = self.comparison.sound_runs(method)
        if not runs:
            return None
        n_steps = min(len(run.n_selected) for run in runs)
        return np.asarray(np.mean([run.n_selected[:n_steps] for run in runs], axis=0))

    def selected_share(self, method: str) -> NDArray[np.float64] | None:
        """(n_patches,) share of the steps that selected each patch; None if all diverged."""
        runs = self.comparison.sound_runs(method)
        return np.mean([run.selected.mean(axis=0) for run in runs], axis=0) if runs else None
