"""The plots of a report: figures for a file without a screen."""

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vit_patch_env.experiments.compare.results import FULL
from vit_patch_env.experiments.report.measures import AGENT, CONTROL, GROUPS, Cost, Measures
from vit_patch_env.experiments.report.statistics import pareto_front, spread_out

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C564B", "#7F7F7F")
"""Okabe and Ito's colours, told apart also by colour-blind readers, and two more."""
FIXED = {FULL: "#000000", AGENT: "#D55E00"}
GROUP_COLOURS = {
    "four": "#D55E00", "paper": "#B87A00", "agent": "#AA4499", "rule": "#0072B2", "rival": "#009E73"
}  # fmt: skip
MARKERS = {"four": "o", "paper": "D", "agent": "P", "rule": "s", "rival": "^"}
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
STYLE: Any = {
    "axes.grid": True, "grid.alpha": 0.25, "axes.spines.top": False, "axes.spines.right": False,
    "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "figure.dpi": 150,
}  # fmt: skip
LABEL_SIZE = 8.5


class Plot(NamedTuple):
    """A plot: its file's name without ending, what it shows, and the picture as PNG."""

    name: str
    title: str
    caption: str
    png: bytes


def draw_plots(measures: Measures) -> list[Plot]:
    """All plots that the figures allow."""
    drawn = []
    followed, by_epochs = measures.followed, measures.comparison.budget == "epochs"
    over_time = followed.measure == "seconds"
    together = "; training time is the ViT's and the agent's together" * over_time
    at_shares = "" if by_epochs else ", at equal shares of the budget"
    full = f" {measures.title(FULL)}, the black line, is in every part."
    front = (
        "Test accuracy on all patches; means over seeds, upright lines the 95 % bootstrap "
        "interval. The grey steps are the Pareto front: no method beyond them is cheaper and "
        "better."
    )
    plots: list[tuple[str, str, str, Callable[[Measures], Figure | None]]] = [
        (
            "accuracy_over_time" if over_time else "accuracy_over_run",
            f"Validation accuracy against training {followed.name}",
            f"All patches, after each epoch{together}. Means over seeds{at_shares}."
            + (full if FULL in measures.methods else ""),
            _accuracy_over_run,
        ),
        *(
            (
                f"accuracy_over_{cost.measure}", f"Accuracy against training {cost.name}", front,
                partial(_front, cost=cost),
            )
            for cost in measures.costs
        ),
        (
            "patches_per_step", "Patches per training step",
            f"Methods whose number of patches changes; means over seeds{at_shares}, smoothed over "
            "a fiftieth of the run.",
            _patches_per_step,
        ),
        (
            "selected_patches", "How often each patch was selected",
            "Share of the training steps that trained on the patch, on the image's grid; means "
            "over seeds. Agents and fixed rules that leave patches out.",
            _selected_patches,
        ),
        (
            "time_to_accuracy" if over_time else "flops_to_accuracy",
            "Time to accuracy" if over_time else "FLOPs to accuracy",
            f"Training {followed.name} until the validation accuracy is first reached at an "
            "epoch's end; bars are means over the seeds that reached it, dots the seeds.",
            _cost_to_accuracy,
        ),
    ]  # fmt: skip
    for name, title, caption, draw in plots:
        with mpl.rc_context(STYLE):
            figure = draw(measures)
            if figure is not None:
                drawn.append(Plot(name, title, caption, _png(figure)))
    return drawn


def _png(figure: Figure) -> bytes:
    """The picture, without the version and date that would change from one call to another."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _line_style(measures: Measures, method: str) -> dict[str, Any]:
    """Colour by place in its group, line by group."""
    for index, methods in enumerate(measures.blocks().values()):
        if method in methods:
            place = methods.index(method)
            colour = FIXED.get(method, PALETTE[place % len(PALETTE)])
            width = 2.2 if method in FIXED else 1.4
            return {"color": colour, "linestyle": LINES[index], "linewidth": width}
    raise KeyError(method)


def _label_right(
    figure: Figure, axes: Axes, labels: Sequence[tuple[str, float, float, str]]
) -> None:
    """Write labels (text, x, y, colour) beside the axes, apart from each other, led to points."""
    low, high = axes.get_ylim()
    height = axes.get_position().height * figure.get_size_inches()[1] * 72  # points
    places = [(y - low) / (high - low) for _, _, y, _ in labels]
    positions = spread_out(places, 1.35 * LABEL_SIZE / height, 0.0, 1.0)
    for (text, x, y, colour), position in zip(labels, positions, strict=True):
        axes.annotate(
            text, (x, y), (1.04, position), textcoords="axes fraction", va="center",
            fontsize=LABEL_SIZE, color=colour, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "alpha": 0.6,
                        "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)},
        )  # fmt: skip


def _percent_axis(axis: Any) -> None:
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda share, _: f"{100 * share:.5g}%"))


def _accuracy_over_run(measures: Measures) -> Figure | None:
    size = measures.followed.size
    curves = {method: measures.curve(method) for method in measures.methods}
    blocks = {
        name: [method for method in methods if curves[method] is not None]
        for name, methods in measures.blocks().items()
    }
    blocks = {name: methods for name, methods in blocks.items() if methods}
    if not blocks:
        return None
    heights = [2.0 + 0.12 * len(methods) for methods in blocks.values()]
    figure = Figure(figsize=(10, sum(heights) + 1.2))
    grid = figure.subplots(
        len(blocks), 1, sharex=True, sharey=True, squeeze=False, height_ratios=heights
    )
    inch = 1 / figure.get_size_inches()[1]
    figure.subplots_adjust(
        left=0.07, right=0.73, top=1 - 0.3 * inch, bottom=0.5 * inch, hspace=0.16
    )
    for axes, (name, methods) in zip(grid[:, 0], blocks.items(), strict=True):
        if FULL not in methods and curves.get(FULL) is not None:
            methods = [FULL, *methods]
        for method in methods:
            curve = curves[method]
            assert curve is not None
            style = _line_style(measures, method)
            if method != FULL:
                style["linestyle"] = LINES[methods.index(method) // len(PALETTE)]
            marker = "." if len(curve.cost) < 30 else ""
            axes.plot(curve.cost / size, curve.accuracy, marker=marker, **style)
        axes.set(title=GROUPS[name], ylabel="validation accuracy")
        _percent_axis(axes.yaxis)
    # After all have drawn: a limit set before would hold for those that share the axis.
    grid[-1, 0].set(xlabel=measures.followed.label, xlim=(0, None))
    for axes, methods in zip(grid[:, 0], blocks.values(), strict=True):
        if FULL not in methods and curves.get(FULL) is not None:
            methods = [FULL, *methods]
        _label_right(
            figure, axes,
            [
                (measures.title(m), curve.cost[-1] / size, curve.accuracy[-1],
                 _line_style(measures, m)["color"])
                for m in methods
                if (curve := curves[m]) is not None
            ],
        )  # fmt: skip
    return figure


def _front(measures: Measures, cost: Cost) -> Figure | None:
    """Mean test accuracy against a mean cost, with the methods that none beats joined."""
    points, size = measures.points(cost.measure), cost.size
    if not points:
        return None
    figure = Figure(figsize=(10, max(4.2, 1.6 + 0.22 * len(points))))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.07, right=0.73, top=0.93, bottom=0.11)
    front = [points[name] for name in pareto_front(points)]
    right = max(x for x, _ in points.values())
    axes.step(
        [x / size for x, _ in front] + [right / size], [y for _, y in front] + [front[-1][1]],
        where="post", color="0.6", linewidth=1.6, label="Pareto front", zorder=1,
    )  # fmt: skip
    labels = []
    for group, methods in measures.blocks().items():
        colour, methods = GROUP_COLOURS[group], [name for name in methods if name in points]
        for method in methods:
            x, y = points[method][0] / size, points[method][1]
            spread = measures.estimate(method, "accuracy")
            axes.plot([x, x], [spread.low, spread.high], color=colour, alpha=0.35, linewidth=1.2)
            labels.append((measures.title(method), x, y, colour))
        axes.plot(
            [points[name][0] / size for name in methods], [points[name][1] for name in methods],
            MARKERS[group], color=colour, label=GROUPS[group], zorder=3,
        )  # fmt: skip
    axes.set(xlabel=cost.label, ylabel="test accuracy")
    axes.margins(x=0.05, y=0.08)
    _percent_axis(axes.yaxis)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncol=6, frameon=False, fontsize=8.5)
    _label_right(figure, axes, labels)
    return figure


def _patches_per_step(measures: Measures) -> Figure | None:
    lines: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for method in measures.methods:
        selection = measures.selection(method)
        if selection is None or not len(selection.n_selected) or np.ptp(selection.n_selected) == 0:
            continue
        window = max(len(selection.n_selected) // 50, 1)
        smooth = pd.Series(selection.n_selected).rolling(window, min_periods=1).mean()
        lines[method] = selection.moments, smooth.to_numpy()
    if not lines:
        return None
    figure = Figure(figsize=(10, max(3.4, 1.4 + 0.25 * len(lines))))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.07, right=0.73, top=0.97, bottom=0.13)
    labels = []
    for method, (moments, patches) in lines.items():
        style = _line_style(measures, method)
        if method == CONTROL:  # lies on the agent's line
            style |= {"color": "0.2", "linestyle": (0, (1, 3)), "zorder": 4}
        axes.plot(moments, patches, **style)
        labels.append((measures.title(method), moments[-1], patches[-1], style["color"]))
    axes.set(xlabel="training step", ylabel="patches", ylim=(0, None), xlim=(0, None))
    if measures.comparison.budget != "epochs":
        axes.set(xlabel="share of the budget used")
        _percent_axis(axes.xaxis)
    _label_right(figure, axes, labels)
    return figure


def _selected_patches(measures: Measures) -> Figure | None:
    rivals = measures.blocks().get("rival", [])
    shares = {name: measures.selected_share(name) for name in measures.methods}
    maps = {
        method: share
        for method, share in shares.items()
        if method not in rivals and share is not None and share.size and share.min() < 1 - 1e-6
    }
    if not maps:
        return None
    n_columns = 5
    n_rows = math.ceil(len(maps) / n_columns)
    figure = Figure(figsize=(10, 2.15 * n_rows + 0.3), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (method, share) in zip(grid.flat, maps.items(), strict=False):
        side = math.isqrt(share.size)
        shape = (side, side) if side**2 == share.size else (1, share.size)
        image = axes.imshow(share.reshape(shape), cmap="viridis", vmin=0, vmax=1)
        title = measures.title(method).replace(", ", ",\n").replace(" (", "\n(")
        axes.set_title(f"{title}\nmean {share.mean():.2f}", fontsize=8, loc="center")
    figure.colorbar(image, ax=grid, label="share of the steps", shrink=0.8, aspect=30)
    return figure


def _cost_to_accuracy(measures: Measures) -> Figure | None:
    levels = measures.all_levels()
    methods = [name for name in measures.methods if measures.comparison.sound_runs(name)]
    if not levels or not methods:
        return None
    figure = Figure(figsize=(10, 1.1 + 0.27 * len(methods)), layout="constrained")
    grid = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    groups = {name: group for group, names in measures.blocks().items() for name in names}
    for axes, (label, level) in zip(grid, levels.items(), strict=True):
        longest = 0.0
        for row, method in enumerate(methods):
            costs = measures.costs_to(method, level)
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
        axes.set_title(label, fontsize=9)
        axes.set(xlabel=measures.followed.units, xlim=(0, 1.3 * longest or 1))
        axes.set(ylim=(-0.6, len(methods) - 0.4))
        axes.grid(visible=False, axis="y")
    grid[0].set_yticks(range(len(methods)), [measures.title(name) for name in methods])
    grid[0].invert_yaxis()
    return figure
