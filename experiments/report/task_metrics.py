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
        self.methods = [
            name for name in results.methods if any(one.get(name) for one in self.scores.values())
        ]
        if split == "training":
            searched = {task: one for task, one in self.scores.items() if task in self.best}
            single = best_on_average(searched, self.fixed)
        self.single = single
        self.regrets = {name: regrets(self.scores, name, self.best) for name in self.methods}

    def order(self) -> list[str]:
        """Methods by their mean regret; first those that were run on all tasks that have one."""
        known = [name for name in self.methods if self.regrets[name]]
        known.sort(key=lambda name: float(np.mean(list(self.regrets[name].values()))))
        known.sort(key=lambda name: not self.is_complete(name))
        return [*known, *(name for name in self.methods if name not in known)]

    def is_complete(self, method: str) -> bool:
        """Whether a method was run on every task that has a best fixed rule, and there is one."""
        return 0 < len(self.regrets[method]) == len(self.best)

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
