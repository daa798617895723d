"""Colours, lines and labels of the plots."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vit_patch_env.experiments.compare.results import BASELINE, FULL
from vit_patch_env.experiments.report.metrics import ComparisonMetrics
from vit_patch_env.experiments.report.paper import AGENT
from vit_patch_env.experiments.report.statistics import spread_out

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C564B", "#7F7F7F")
"""Okabe and Ito's colours, which colour-blind readers can distinguish, and two more."""
FIXED = {FULL: "#000000", AGENT: "#D55E00"}
GROUP_COLOURS = {
    "four": "#D55E00", "paper": "#B87A00", "agent": "#AA4499", "rule": "#0072B2",
    BASELINE: "#009E73",
}  # fmt: skip
MARKERS = {"four": "o", "paper": "D", "agent": "P", "rule": "s", BASELINE: "^"}
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
STYLE: Any = {
    "axes.grid": True, "grid.alpha": 0.25, "axes.spines.top": False, "axes.spines.right": False,
    "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "figure.dpi": 150,
}  # fmt: skip
LABEL_SIZE = 8.5


def line_style(metrics: ComparisonMetrics, method: str) -> dict[str, Any]:
    """Colour by the method's place in its group, line by group."""
    for index, methods in enumerate(metrics.blocks().values()):
        if method in methods:
            place = methods.index(method)
            colour = FIXED.get(method, PALETTE[place % len(PALETTE)])
            width = 2.2 if method in FIXED else 1.4
            return {"color": colour, "linestyle": LINES[index], "linewidth": width}
    raise KeyError(method)


def label_right(
    figure: Figure, axes: Axes, labels: Sequence[tuple[str, float, float, str]]
) -> None:
    """Write labels (text, x, y, colour) right of the axes without overlap, with lines to points."""
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


def percent_axis(axis: Any) -> None:
    """Show an axis of shares in percent."""
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda share, _: f"{100 * share:.5g}%"))
