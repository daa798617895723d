"""The metrics of a comparison: one value per run, methods over their seeds."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.experiments.compare.results import (
    BASELINE,
    FULL,
    Comparison,
    RunResult,
    complete_env,
)
from vit_patch_env.experiments.report.disturbance import disturbances
from vit_patch_env.experiments.report.own_patches import own_patches
from vit_patch_env.experiments.report.paper import AGENT, TABLE2
from vit_patch_env.experiments.report.statistics import (
    Estimate,
    estimate,
    paired,
    ratio,
    round_levels,
    time_to,
)

CONTROL = "random_matched"
"""Trains on random patches, as many as the paper's agent selected at each step."""

GROUPS = {
    "four": "The paper's Table 2",
    "paper": "More agents",
    "agent": "Our agents",
    "rule": "Fixed rules",
    BASELINE: "Baselines",
}

RUN_METRICS: dict[str, Callable[[RunResult], float]] = {
    "seconds": lambda run: run.seconds,
    "accuracy": lambda run: run.test_metric("accuracy"),
    "precision": lambda run: run.test_metric("precision"),
    "recall": lambda run: run.test_metric("recall"),
    "f1": lambda run: run.test_metric("f1"),
    "own_accuracy": lambda run: own_patches(run).accuracy,
    "own_patches": lambda run: own_patches(run).n_patches,
    "n_selected": lambda run: run.n_patches,
    "flops": lambda run: run.metric("flops"),
    "agent_share": lambda run: ratio(run.metric("agent_seconds"), run.seconds),
    "peak_memory": lambda run: run.metric("peak_memory_bytes"),
    "n_steps": lambda run: run.metric("n_steps"),
}
"""Metrics of a run by name: training time in seconds, shares in [0, 1], FLOPs, bytes."""


_TIMES = frozenset({"seconds", "agent_share"})
"""Metrics of which disturbed runs have no value."""


class Cost(NamedTuple):
    """A cost of training: time or FLOPs.

    Attributes:
        metric: of a whole run, one of `RUN_METRICS`.
        name: in sentences, after "training".
        label: of an axis.
        units: in tables and plots.
        size: of one unit.
        over_run: cost up to the end of each epoch of a run, (n_epochs,).
    """

    metric: str
    name: str
    label: str
    units: str
    size: float
    over_run: Callable[[RunResult], NDArray[np.float64]]


_SECONDS = Cost(
    "seconds", "time", "training time, agent included (s)", "seconds", 1,
    lambda run: run.epoch_seconds,
)  # fmt: skip


class ComparisonMetrics:
    """Metrics of the runs that did not diverge.

    Args:
        comparison: with at least one finished run.

    Attributes:
        comparison: the comparison.
        methods: with at least one finished run, in the order of the tables.
        levels: validation accuracies for the time to accuracy, ascending.
        disturbances: the runs whose times are in no mean.
        full_accuracy: mean final validation accuracy of SimpleViT64; NaN without such a run.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.disturbances = disturbances(comparison)
        self.methods = [method for methods in self.blocks().values() for method in methods]
        runs = [run for method in self.methods for run in comparison.valid_runs(method)]
        self.levels = round_levels([run.val_accuracy for run in runs])
        full = estimate(float(run.val_accuracy[-1]) for run in comparison.valid_runs(FULL))
        self.full_accuracy = full.mean

    def blocks(self) -> dict[str, list[str]]:
        """Methods by group in the order of the tables: those of the paper's Table 2 first."""
        blocks: dict[str, list[str]] = {name: [] for name in GROUPS}
        blocks["four"] = [name for name in TABLE2 if name in self.comparison.methods]
        for method in self.comparison.methods:
            if method not in TABLE2:
                group = self.comparison.group(method)
                blocks[group if group in GROUPS else BASELINE].append(method)
        return {name: methods for name, methods in blocks.items() if methods}

    def title(self, method: str) -> str:
        """A method's name in tables and plots."""
        return self.comparison.title(method)

    def values(self, method: str, metric: str) -> dict[int, float]:
        """The finite values of a metric by seed; times are those of undisturbed runs."""
        runs = self.runs(method, metric)
        values = {run.seed: RUN_METRICS[metric](run) for run in runs}
        return {seed: value for seed, value in values.items() if math.isfinite(value)}

    def runs(self, method: str, metric: str) -> list[RunResult]:
        """The runs of a method that count for a metric: those that did not diverge.

        For times, only those that were not disturbed.
        """
        runs = self.comparison.valid_runs(method)
        if metric not in _TIMES:
            return runs
        return [run for run in runs if (method, run.seed) not in self.disturbances.reasons]

    def n_disturbed(self, method: str) -> int:
        """Number of a method's runs whose times are in no mean."""
        return len(self.comparison.valid_runs(method)) - len(self.runs(method, "seconds"))

    def estimate(self, method: str, metric: str) -> Estimate:
        """A metric's mean over the seeds with its interval."""
        return estimate(self.values(method, metric).values())

    def mean(self, method: str, metric: str) -> float:
        """A metric's mean over the seeds, without an interval."""
        values = list(self.values(method, metric).values())
        return sum(values) / len(values) if values else math.nan

    def compare(
        self, method: str, reference: str, metric: str, by: Callable[[float, float], float]
    ) -> Estimate:
        """A metric's paired difference or ratio, over the seeds that both methods have."""
        return paired(self.values(method, metric), self.values(reference, metric), by)

    def points(self, cost: str) -> dict[str, tuple[float, float]]:
        """Mean cost and mean test accuracy of every method that has both."""
        points = {
            method: (self.mean(method, cost), self.mean(method, "accuracy"))
            for method in self.methods
        }
        return {method: point for method, point in points.items() if all(map(math.isfinite, point))}

    @property
    def costs(self) -> list[Cost]:
        """Costs in which methods differ: FLOPs and time, without the one that is the budget."""
        costs = (self._flops(), _SECONDS)
        return [cost for cost in costs if cost.metric != self.comparison.budget]

    @property
    def main_cost(self) -> Cost:
        """The cost of learning curves: FLOPs where they are the budget, else time."""
        return self._flops() if self.comparison.budget == "flops" else _SECONDS

    @property
    def curve_costs(self) -> list[Cost]:
        """Costs that are measured up to an accuracy: FLOPs where they are the budget, and time."""
        return [self.main_cost] if self.main_cost == _SECONDS else [self.main_cost, _SECONDS]

    def _flops(self) -> Cost:
        unit, size = self.flops_unit()
        label = f"training FLOPs ({unit})"
        return Cost("flops", "FLOPs", label, f"{unit}s", size, lambda run: run.epoch_flops)

    def flops_unit(self) -> tuple[str, float]:
        """Name and size of a unit for the training FLOPs."""
        return flops_unit(max((cost for cost, _ in self.points("flops").values()), default=0.0))

    def agents(self) -> list[str]:
        """Methods that learn which patches to select, the paper's and ours."""
        group = self.comparison.group
        return [name for name in self.methods if name.startswith(AGENT) or group(name) == "agent"]

    def rules(self) -> list[str]:
        """Fixed rules and schedules for a SimpleViT, without the control that follows an agent."""
        return [
            name
            for name in self.methods
            if name != CONTROL
            and (
                self.comparison.group(name) == "rule"
                or (self.comparison.group(name) == BASELINE and self._model(name) == "simple_vit")
            )
        ]

    def best(self, methods: list[str]) -> str | None:
        """The method with the highest mean test accuracy, of those with the most seeds."""
        n_seeds = {name: len(self.values(name, "accuracy")) for name in methods}
        most = max(n_seeds.values(), default=0)
        complete = [name for name in methods if n_seeds[name] == most > 0]
        return max(complete, key=lambda name: self.mean(name, "accuracy"), default=None)

    def _model(self, method: str) -> str:
        run = self.comparison.finished_runs(method)[0]
        return str(complete_env(run.config["options"]["env"])["model"])

    def all_levels(self) -> dict[str, float]:
        """Validation accuracies to reach, by name: round ones and SimpleViT64's final one."""
        levels = {f"{level:.0%}": level for level in self.levels}
        if math.isfinite(self.full_accuracy):
            levels[f"{self.title(FULL)}'s final {self.full_accuracy:.1%}"] = self.full_accuracy
        return levels

    def costs_to(self, method: str, level: float, cost: Cost) -> list[float]:
        """Cost to a validation accuracy by seed, in units of the cost; NaN if not reached."""
        return [
            time_to(level, run.val_accuracy, cost.over_run(run)) / cost.size
            for run in self.runs(method, cost.metric)
        ]

    def n_epochs(self, method: str) -> float:
        """Mean number of passes over the training images; known where the budget is not epochs."""
        return self.mean(method, "n_steps") / self.comparison.steps_per_epoch


def flops_unit(flops: float) -> tuple[str, float]:
    """Name and size of a unit for a number of FLOPs."""
    return ("PFLOP", 1e15) if flops >= 1e15 else ("TFLOP", 1e12)
