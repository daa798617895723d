"""What is stated of the methods of a comparison of tasks."""

import numpy as np

from vit_patch_env.experiments.compare.task_results import TaskResults
from vit_patch_env.experiments.report.regret import (
    best_on_average,
    best_on_each,
    hierarchical,
    paired_differences,
    regrets,
)
from vit_patch_env.experiments.report.statistics import Estimate
from vit_patch_env.experiments.task_set.table import SplitOfTasks


class TaskMetrics:
    """What a report of tasks states of one split.

    Args:
        results: of the comparison.
        split: of the tasks.
        single: the best single fixed rule, which is chosen on the training tasks.
    """

    def __init__(
        self, results: TaskResults, split: SplitOfTasks, single: str | None = None
    ) -> None:
        self.results, self.split = results, split
        self.tasks = results.of_split(split)
        self.scores = results.scores(self.tasks)
        self.fixed = [name for name in results.methods if results.is_fixed(name)]
        self.best = best_on_each(self.scores, self.fixed)
        if split == "training":
            single = best_on_average(self.scores, self.fixed)
        self.single = single
        self.regrets = {name: regrets(self.scores, name, self.best) for name in results.methods}

    def order(self) -> list[str]:
        """Methods by their mean regret; first those that were run on all tasks."""
        known = [name for name, losses in self.regrets.items() if losses]
        return sorted(
            known,
            key=lambda name: (
                len(self.regrets[name]) < len(self.tasks),
                float(np.mean(list(self.regrets[name].values()))),
            ),
        )

    def regret(self, method: str) -> Estimate:
        """Mean regret over tasks; its interval is over tasks and seeds."""
        return hierarchical(
            [
                self.best[task].accuracy - np.array(list(self.scores[task][method].values()))
                for task in self.regrets[method]
            ]
        )

    def against(self, method: str, reference: str) -> Estimate:
        """Mean paired difference to another method over tasks and seeds."""
        found = paired_differences(self.scores, method, reference)
        return hierarchical([np.array(values) for values in found.values()])
