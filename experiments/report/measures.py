"""The figures of a comparison, method by method over its seeds."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.experiments.compare.results import FULL, Comparison, RunResult, complete_env
from vit_patch_env.experiments.report.statistics import (
    Estimate,
    estimate,
    paired,
    ratio,
    round_levels,
    time_to,
)

AGENT, CONTROL = "agentvit", "random_matched"
"""The paper's agent; as many random patches as that agent used at each step."""

GROUPS = {
    "four": "The paper's Table 2",
    "paper": "More agents",
    "agent": "Our agents",
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
    "n_steps": lambda run: run.figure("n_steps"),
}
"""Figures of a run, by name: seconds of training, shares in [0, 1], FLOPs, bytes."""


class Cost(NamedTuple):
    """What training takes: time, or FLOPs.

    Attributes:
        measure: of a whole run, one of `MEASURES`.
        name: what training takes of it.
        label: of an axis.
        units: those that a reader is shown.
        size: of such a unit.
        over_run: what a run took up to the end of each epoch, (n_epochs,).
    """

    measure: str
    name: str
    label: str
    units: str
    size: float
    over_run: Callable[[RunResult], NDArray[np.float64]]


_SECONDS = Cost(
    "seconds", "time", "training time, agent included (s)", "seconds", 1,
    lambda run: run.epoch_seconds,
)  # fmt: skip
_N_MOMENTS = 500
"""Shares of the budget that a number of patches is shown at."""


class Curve(NamedTuple):
    """A method's validation accuracy over the cost of its training, averaged over seeds."""

    cost: NDArray[np.float64]
    accuracy: NDArray[np.float64]


class Selection(NamedTuple):
    """Patches over a method's training, averaged over seeds.

    Attributes:
        moments: training steps from 1, or shares of the budget where steps differ in number.
        n_selected: patches at each of them.
    """

    moments: NDArray[np.float64]
    n_selected: NDArray[np.float64]


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

    @property
    def costs(self) -> list[Cost]:
        """What methods can be cheap or dear in: FLOPs and time, but not what is the budget."""
        costs = (self._flops(), _SECONDS)
        return [cost for cost in costs if cost.measure != self.comparison.budget]

    @property
    def followed(self) -> Cost:
        """What runs are followed over: their FLOPs where those are the budget, else the time."""
        return self._flops() if self.comparison.budget == "flops" else _SECONDS

    def _flops(self) -> Cost:
        unit, size = self.flops_unit()
        label = f"training FLOPs ({unit})"
        return Cost("flops", "FLOPs", label, f"{unit}s", size, lambda run: run.epoch_flops)

    def flops_unit(self) -> tuple[str, float]:
        """The unit in which training FLOPs are easy to read: its name and its size."""
        return flops_unit(max((cost for cost, _ in self.points("flops").values()), default=0.0))

    def agents(self) -> list[str]:
        """Methods that learn which patches to pick, the paper's and ours."""
        groups = self.comparison.group
        return [name for name in self.methods if name.startswith(AGENT) or groups(name) == "agent"]

    def rules(self) -> list[str]:
        """Fixed rules and schedules for a SimpleViT, those apart that repeat an agent's run."""
        return [
            name
            for name in self.methods
            if name != CONTROL
            and (
                self.comparison.group(name) == "rule"
                or (self.comparison.group(name) == "rival" and self._model(name) == "simple_vit")
            )
        ]

    def best(self, methods: list[str]) -> str | None:
        """The method of the highest mean test accuracy, of those with the most seeds."""
        n_seeds = {name: len(self.values(name, "accuracy")) for name in methods}
        most = max(n_seeds.values(), default=0)
        full = [name for name in methods if n_seeds[name] == most > 0]
        return max(full, key=lambda name: self.mean(name, "accuracy"), default=None)

    def _model(self, method: str) -> str:
        run = self.comparison.finished_runs(method)[0]
        return str(complete_env(run.config["options"]["env"])["model"])

    def all_levels(self) -> dict[str, float]:
        """Accuracies to time by their names, round ones and the one SimpleViT64 ends at."""
        levels = {f"{level:.0%}": level for level in self.levels}
        if math.isfinite(self.full_accuracy):
            levels[f"{self.title(FULL)}'s final {self.full_accuracy:.1%}"] = self.full_accuracy
        return levels

    def costs_to(self, method: str, level: float) -> list[float]:
        """Cost, as it is shown, of a validation accuracy by seed; NaN where it was not reached."""
        cost = self.followed
        return [
            time_to(level, run.val_accuracy, cost.over_run(run)) / cost.size
            for run in self.comparison.sound_runs(method)
        ]

    def epochs_seen(self, method: str) -> float:
        """Training images seen over those that there are, where the budget is not epochs."""
        return self.mean(method, "n_steps") / self.comparison.steps_per_epoch

    def curve(self, method: str) -> Curve | None:
        """The method's learning curve; None if all its runs diverged.

        Runs may differ in their number of epochs: they are averaged at the moments, in shares of
        the budget, at which the longest one has a figure and all have begun.
        """
        runs = self.comparison.sound_runs(method)
        if not runs:
            return None
        moments = max((run.progress for run in runs), key=len)
        moments = moments[moments >= max(run.progress[0] for run in runs)]

        def mean(values: Callable[[RunResult], NDArray[np.float64]]) -> NDArray[np.float64]:
            resampled = [np.interp(moments, run.progress, values(run)) for run in runs]
            return np.asarray(np.mean(resampled, axis=0))

        return Curve(mean(self.followed.over_run), mean(lambda run: run.val_accuracy))

    def selection(self, method: str) -> Selection | None:
        """How many patches the method picked when; None if all its runs diverged."""
        runs = self.comparison.sound_runs(method)
        if not runs:
            return None
        if self.comparison.budget == "epochs":  # all have as many steps
            n_steps = min(len(run.n_selected) for run in runs)
            moments = np.arange(1.0, n_steps + 1)
            picked = [run.n_selected[:n_steps] for run in runs]
        else:
            moments = np.arange(_N_MOMENTS) / _N_MOMENTS
            picked = [run.n_selected[self._step_at(run, moments)] for run in runs]
        return Selection(moments, np.asarray(np.mean(picked, axis=0)))

    def selected_share(self, method: str) -> NDArray[np.float64] | None:
        """(n_patches,) share of the steps that selected each patch; None if all diverged."""
        runs = self.comparison.sound_runs(method)
        if not runs:
            return None
        shares = [np.average(run.selected, axis=0, weights=self._epoch_steps(run)) for run in runs]
        return np.asarray(np.mean(shares, axis=0))

    def _epoch_steps(self, run: RunResult) -> NDArray[np.float64] | None:
        """(n_epochs,) steps of each epoch; None if all have as many."""
        if self.comparison.budget == "epochs":
            return None
        per_epoch = self.comparison.steps_per_epoch
        n_full = len(run.epochs) - 1  # the last one may have been cut short
        return np.array([per_epoch] * n_full + [len(run.n_selected) - n_full * per_epoch])

    def _step_at(self, run: RunResult, moments: NDArray[np.float64]) -> NDArray[np.int64]:
        """The steps, from 0, that a run was at when it had used these shares of its budget."""
        steps = self._epoch_steps(run)
        assert steps is not None
        ends = np.concatenate(([0], np.cumsum(steps)))
        # Within an epoch as if its steps cost the same.
        at = np.interp(moments, np.concatenate(([0], run.progress)), ends)
        return np.minimum(at.astype(np.int64), len(run.n_selected) - 1)


def flops_unit(flops: float) -> tuple[str, float]:
    """The unit in which so many FLOPs are easy to read: its name and its size."""
    return ("PFLOP", 1e15) if flops >= 1e15 else ("TFLOP", 1e12)
