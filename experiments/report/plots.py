"""The plots of a report, as PNG."""

import io
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vit_patch_env.experiments.compare.results import FULL
from vit_patch_env.experiments.report.curves import (
    LearningCurve,
    learning_curve,
    selection_curve,
)
from vit_patch_env.experiments.report.heat_maps import selected_patches
from vit_patch_env.experiments.report.metrics import CONTROL, GROUPS, ComparisonMetrics, Cost
from vit_patch_env.experiments.report.plot_style import (
    GROUP_COLOURS,
    LINES,
    MARKERS,
    PALETTE,
    STYLE,
    label_right,
    line_style,
    percent_axis,
)
from vit_patch_env.experiments.report.statistics import pareto_front
from vit_patch_env.system.escaping import label


class Plot(NamedTuple):
    """A plot: its file name without suffix, title, caption and PNG."""

    name: str
    title: str
    caption: str
    png: bytes


def make_plots(metrics: ComparisonMetrics) -> list[Plot]:
    """All plots for which there are values."""
    plots = []
    main, by_epochs = metrics.main_cost, metrics.comparison.budget == "epochs"
    over_time = main.metric == "seconds"
    agent_included = "; training time includes the agent's" * over_time
    at_shares = "" if by_epochs else ", at equal shares of the budget"
    full = f" {metrics.title(FULL)}, the black line, is in every panel."
    front = (
        "Test accuracy on all patches; means over seeds, error bars: 95 % bootstrap intervals of "
        "the accuracy. The grey steps are the Pareto front: no method has a higher accuracy at the "
        "same or a lower cost."
    )
    undisturbed = {"seconds": " Times are those of undisturbed runs."}
    if metrics.disturbances.n_unknown:
        undisturbed["seconds"] += " Not all runs recorded whether they were: see the note."
    planned: list[tuple[str, str, str, Callable[[ComparisonMetrics], Figure | None]]] = [
        (
            "accuracy_over_time" if over_time else "accuracy_over_run",
            f"Validation accuracy against training {main.name}",
            f"On all patches, after each epoch{agent_included}. Means over seeds{at_shares}."
            + undisturbed.get(main.metric, "")
            + (full if FULL in metrics.methods else ""),
            _learning_curves,
        ),
        *(
            (
                f"accuracy_over_{cost.metric}", f"Test accuracy against training {cost.name}",
                front + undisturbed.get(cost.metric, ""), partial(_front, cost=cost),
            )
            for cost in metrics.costs
        ),
        (
            "patches_per_step", "Patches per training step",
            "Methods whose number of patches changes during training; means over "
            f"seeds{at_shares}, moving average over 2 % of training.",
            _patches_per_step,
        ),
        (
            "selected_patches", "How often each patch was selected",
            "Share of the training steps that selected each patch, on the grid of patches; means "
            "over seeds. Agents and fixed rules that leave out patches. Each map has a scale of "
            "its own, from its lowest to its highest share: where these are close together, as of "
            "random patches, the differences are chance.",
            selected_patches,
        ),
        (
            "time_to_accuracy" if over_time else "flops_to_accuracy",
            "Time to accuracy" if over_time else "FLOPs to accuracy",
            f"Training {main.name} up to the end of the first epoch with the validation accuracy; "
            "bars: means over the seeds that reached it, dots: seeds."
            + undisturbed.get(main.metric, ""),
            _cost_to_accuracy,
        ),
    ]  # fmt: skip
    for name, title, caption, plot in planned:
        with mpl.rc_context(STYLE):
            figure = plot(metrics)
            if figure is not None:
                plots.append(Plot(name, title, caption, png(figure)))
    return plots


def png(figure: Figure) -> bytes:
    """The figure as PNG; without metadata, equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _learning_curves(metrics: ComparisonMetrics) -> Figure | None:
    size = metrics.main_cost.size
    curves: dict[str, LearningCurve] = {}
    for method in metrics.methods:
        curve = learning_curve(metrics, method)
        if curve is not None:
            curves[method] = curve
    blocks = {
        name: [method for method in methods if method in curves]
        for name, methods in metrics.blocks().items()
    }
    blocks = {name: methods for name, methods in blocks.items() if methods}
    if not blocks:
        return None
    heights = [2.0 + 0.12 * len(methods) for methods in blocks.values()]
    reference = [FULL] if FULL in curves else []
    panels = {
        name: methods if FULL in methods else reference + methods
        for name, methods in blocks.items()
    }
    figure = Figure(figsize=(10, sum(heights) + 1.2))
    grid = figure.subplots(
        len(blocks), 1, sharex=True, sharey=True, squeeze=False, height_ratios=heights
    )
    inch = 1 / figure.get_size_inches()[1]
    figure.subplots_adjust(
        left=0.07, right=0.73, top=1 - 0.3 * inch, bottom=0.5 * inch, hspace=0.16
    )
    for axes, (name, methods) in zip(grid[:, 0], panels.items(), strict=True):
        for method in methods:
            curve = curves[method]
            style = line_style(metrics, method)
            if method != FULL:
                style["linestyle"] = LINES[methods.index(method) // len(PALETTE)]
            marker = "." if len(curve.cost) < 30 else ""
            axes.plot(curve.cost / size, curve.accuracy, marker=marker, **style)
        axes.set(title=GROUPS[name], ylabel="validation accuracy")
        percent_axis(axes.yaxis)
    # After all lines: the panels share the axis, whose limits the lines determine.
    grid[-1, 0].set(xlabel=metrics.main_cost.label, xlim=(0, None))
    for axes, methods in zip(grid[:, 0], panels.values(), strict=True):
        label_right(
            figure, axes,
            [
                (label(metrics.title(method)), curves[method].cost[-1] / size,
                 curves[method].accuracy[-1], line_style(metrics, method)["color"])
                for method in methods
            ],
        )  # fmt: skip
    return figure


def _front(metrics: ComparisonMetrics, cost: Cost) -> Figure | None:
    """Mean test accuracy against a mean cost, with the Pareto front."""
    points, size = metrics.points(cost.metric), cost.size
    if not points:
        return None
    figure = Figure(figsize=(10, max(4.2, 1.6 + 0.22 * len(points))))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.085, right=0.73, top=0.93, bottom=0.11)
    front = [points[name] for name in pareto_front(points)]
    right = max(x for x, _ in points.values())
    axes.step(
        [x / size for x, _ in front] + [right / size], [y for _, y in front] + [front[-1][1]],
        where="post", color="0.6", linewidth=1.6, label="Pareto front", zorder=1,
    )  # fmt: skip
    labels = []
    for group, methods in metrics.blocks().items():
        colour, methods = GROUP_COLOURS[group], [name for name in methods if name in points]
        if not methods:
            continue
        for method in methods:
            x, y = points[method][0] / size, points[method][1]
            spread = metrics.estimate(method, "accuracy")
            if spread.n > 1:
                axes.errorbar(
                    x, y, [[max(y - spread.low, 0)], [max(spread.high - y, 0)]], color=colour,
                    alpha=0.45, elinewidth=1.2, capsize=2.5,
                )  # fmt: skip
            labels.append((label(metrics.title(method)), x, y, colour))
        axes.plot(
            [points[name][0] / size for name in methods], [points[name][1] for name in methods],
            MARKERS[group], color=colour, label=GROUPS[group], zorder=3,
        )  # fmt: skip
    axes.set(xlabel=cost.label, ylabel="test accuracy")
    axes.margins(x=0.05, y=0.08)
    percent_axis(axes.yaxis)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncol=6, frameon=False, fontsize=8.5)
    label_right(figure, axes, labels)
    return figure


def _patches_per_step(metrics: ComparisonMetrics) -> Figure | None:
    lines: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for method in metrics.methods:
        curve = selection_curve(metrics, method)
        if curve is None or not len(curve.n_selected) or np.ptp(curve.n_selected) == 0:
            continue
        window = max(len(curve.n_selected) // 50, 1)
        smooth = pd.Series(curve.n_selected).rolling(window, min_periods=1).mean()
        lines[method] = curve.x, smooth.to_numpy()
    if not lines:
        return None
    figure = Figure(figsize=(10, max(3.4, 1.4 + 0.25 * len(lines))))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.07, right=0.73, top=0.97, bottom=0.13)
    labels = []
    for method, (x, n_selected) in lines.items():
        style = line_style(metrics, method)
        if method == CONTROL:  # on the agent's line
            style |= {"color": "0.2", "linestyle": (0, (1, 3)), "zorder": 4}
        axes.plot(x, n_selected, **style)
        labels.append((label(metrics.title(method)), x[-1], n_selected[-1], style["color"]))
    axes.set(xlabel="training step", ylabel="patches", ylim=(0, None), xlim=(0, None))
    if metrics.comparison.budget != "epochs":
        axes.set(xlabel="share of the budget used")
        percent_axis(axes.xaxis)
    label_right(figure, axes, labels)
    return figure


def _cost_to_accuracy(metrics: ComparisonMetrics) -> Figure | None:
    levels = metrics.all_levels()
    cost = metrics.main_cost.metric
    methods = [name for name in metrics.methods if metrics.runs(name, cost)]
    if not levels or not methods:
        return None
    figure = Figure(figsize=(10, 1.1 + 0.27 * len(methods)), layout="constrained")
    grid = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    groups = {name: group for group, names in metrics.blocks().items() for name in names}
    for axes, (name, level) in zip(grid, levels.items(), strict=True):
        longest = 0.0
        for row, method in enumerate(methods):
            costs = metrics.costs_to(method, level, metrics.main_cost)
            reached = [cost for cost in costs if math.isfinite(cost)]
            colour = GROUP_COLOURS[groups[method]]
            if not reached:
                axes.text(
                    0.02, row, "not reached", transform=axes.get_yaxis_transform(), va="center",
                    fontsize=8, color="0.4",
                )  # fmt: skip
                continue
            longest = max(longest, *reached)
            axes.barh(row, np.mean(reached), color=colour, alpha=0.45, height=0.7)
            axes.plot(reached, [row] * len(reached), ".", color=colour, markersize=5)
            if len(reached) < len(costs):
                axes.annotate(
                    f"{len(reached)} of {len(costs)}", (max(reached), row), (4, 0),
                    textcoords="offset points", va="center", fontsize=7.5, color="0.3",
                )  # fmt: skip
        axes.set_title(label(name), fontsize=9)
        axes.set(xlabel=metrics.main_cost.units, xlim=(0, 1.3 * longest or 1))
        axes.set(ylim=(-0.6, len(methods) - 0.4))
        axes.grid(visible=False, axis="y")
    grid[0].set_yticks(range(len(methods)), [label(metrics.title(name)) for name in methods])
    grid[0].invert_yaxis()
    return figure
