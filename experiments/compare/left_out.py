"""What a ScheduleBandit would lose on a task that it has not learned from."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vit_patch_env.agents import GrowingOptions, ScheduleOptions
from vit_patch_env.agents.schedule_bandit.model import ScheduleModel, mean_values
from vit_patch_env.agents.schedule_bandit.policy import FinishedRun

Values = dict[GrowingOptions, float]
"""The mean value of each schedule's runs in a task."""


class LeftOut(NamedTuple):
    """What is lost to the best schedule of a task by those who do not know its runs.

    Attributes:
        agent: by the schedule that a model of the other tasks' runs prefers.
        rule: by the schedule that is best on average in the other tasks.
    """

    agent: float
    rule: float


def leave_out_each(
    runs: Mapping[str, Sequence[FinishedRun]], options: ScheduleOptions
) -> dict[str, LeftOut]:
    """What is lost on each task if it is left out of the runs that are learned from.

    The schedules to choose from are those that were run there.

    Args:
        runs: by task, of two tasks or more.
        options: of the model.
    """
    values = {
        task: mean_values((run.schedule for run in of_task), (run.value for run in of_task))
        for task, of_task in runs.items()
    }
    lost = {}
    for task, found in values.items():
        model = ScheduleModel(options)
        others = [run for name, of_task in runs.items() if name != task for run in of_task]
        model.fit(
            [run.context for run in others],
            [run.schedule for run in others],
            [run.value for run in others],
        )
        schedules, best = list(found), max(found.values())
        preferred = schedules[int(model.safe(runs[task][0].context, schedules).argmax())]
        rule = _best_on_average([values[name] for name in values if name != task], schedules)
        lost[task] = LeftOut(best - found[preferred], best - found[rule])
    return lost


def _best_on_average(
    tasks: Sequence[Values], schedules: Sequence[GrowingOptions]
) -> GrowingOptions:
    """The schedule with the least mean loss, of those that were run in nearly all tasks."""
    n_tasks = {one: sum(one in task for task in tasks) for one in schedules}
    common = [one for one in schedules if n_tasks[one] >= 0.8 * max(n_tasks.values())]

    def loss(one: GrowingOptions) -> float:
        return float(np.mean([max(task.values()) - task[one] for task in tasks if one in task]))

    return min(common, key=loss)


def in_words(lost: Mapping[str, LeftOut]) -> str:
    """A sentence on the agent and the best rule, in points of accuracy."""
    agent, rule = (100 * np.array(values) for values in zip(*lost.values(), strict=True))
    return (
        f"If each of the {len(lost)} tasks is left out in turn, the agent loses {agent.mean():.2f} "
        f"points of accuracy there to the best schedule (at most {agent.max():.1f}), and the best "
        f"single schedule of the other tasks {rule.mean():.2f} (at most {rule.max():.1f})."
    )
