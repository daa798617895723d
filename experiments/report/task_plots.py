"""The plots of a report of tasks."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from vit_patch_env.experiments.report.plot_style import LINES, PALETTE, STYLE, percent_axis
from vit_patch_env.experiments.report.plots import Plot, png
from vit_patch_env.experiments.report.regret import profile
from vit_patch_env.experiments.report.task_metrics import TaskMetrics
from vit_patch_env.system.escaping import label

_MOST_LINES = 8
_LIMITS = np.linspace(0, 0.15, 301)


def make_task_plots(splits: Sequence[tuple[str, TaskMetrics]]) -> list[Plot]:
    """The profile of the methods on each split that has tasks with a best fixed rule."""
    splits = [(title, metrics) for title, metrics in splits if metrics.best]
    if not splits:
        return []
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2 * len(splits), 3.4), layout="constrained")
        panels = figure.subplots(1, len(splits), squeeze=False, sharey=True)[0]
        for axes, (title, metrics) in zip(panels, splits, strict=True):
            # A share of other tasks than all is no point of comparison.
            complete = [one for one in metrics.order() if metrics.is_complete(one)]
            agents = [one for one in complete if metrics.results.is_agent(one)]
            rules = [one for one in complete if metrics.results.is_fixed(one)]
            if metrics.single in rules:
                rules = [metrics.single, *(one for one in rules if one != metrics.single)]
            shown = [*agents, *rules][:_MOST_LINES]
            for index, method in enumerate(shown):
                losses = list(metrics.regrets[method].values())
                axes.plot(
                    100 * _LIMITS, profile(losses, _LIMITS), drawstyle="steps-post",
                    color=PALETTE[index % len(PALETTE)], linestyle=LINES[index % len(LINES)],
                    linewidth=2.4 if method in agents else 1.4,
                    label=label(metrics.results.title(method), 40),
                )  # fmt: skip
            axes.set(title=f"{title} ({len(metrics.best)})", ylim=(0, 1.02))
            axes.set_xlabel("points of accuracy below the best fixed rule of the task")
            if shown:
                axes.legend(fontsize=7.5, loc="upper left", bbox_to_anchor=(1.01, 1))
        percent_axis(panels[0].yaxis)
        panels[0].set_ylabel("share of the tasks")
        return [
            Plot(
                "profile",
                "Share of the tasks within so many points of the best fixed rule",
                "The best fixed rule of each task is found by search. Higher is better; at 0 "
                "points is the share of the tasks on which a method is at least as good. Methods "
                "that were not run on all tasks are left out.",
                png(figure),
            )
        ]
