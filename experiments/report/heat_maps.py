"""How often each patch was selected, as a heat map for each method."""

import math

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vit_patch_env.experiments.compare.results import BASELINE
from vit_patch_env.experiments.report.curves import selected_share
from vit_patch_env.experiments.report.metrics import ComparisonMetrics
from vit_patch_env.patches.grid import height_width, patch_grid
from vit_patch_env.system.escaping import label

_N_COLUMNS = 3
_SMALLEST_RANGE = 1e-3
"""Of a scale, so that equal shares have the colour of its middle."""


def selected_patches(metrics: ComparisonMetrics) -> Figure | None:
    """A heat map for each agent and fixed rule that leaves out patches, on a scale of its own."""
    baselines = metrics.blocks().get(BASELINE, [])
    shares = {name: selected_share(metrics, name) for name in metrics.methods}
    maps = {
        method: share
        for method, share in shares.items()
        if method not in baselines and share is not None and share.size and share.min() < 1 - 1e-6
    }
    if not maps:
        return None
    env = metrics.comparison.env
    shape = patch_grid(height_width(env["image_size"]), env["patch_size"])
    n_columns = min(_N_COLUMNS, len(maps))
    n_rows = math.ceil(len(maps) / n_columns)
    figure = Figure(figsize=(10, 3.1 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (method, share) in zip(grid.flat, maps.items(), strict=False):
        _draw(figure, axes, share.reshape(shape))
        axes.set_title(
            f"{label(metrics.title(method))}\n{share.sum():.1f} of {share.size} patches per step",
            fontsize=10, loc="center",
        )  # fmt: skip
    return figure


def _draw(figure: Figure, axes: Axes, shares: NDArray[np.float64]) -> None:
    """A heat map (rows, columns) with its colour bar, in percent of the steps."""
    low, high = float(shares.min()), float(shares.max())
    if high - low < _SMALLEST_RANGE:
        middle = (low + high) / 2
        low, high = middle - _SMALLEST_RANGE / 2, middle + _SMALLEST_RANGE / 2
    image = axes.imshow(shares, cmap="viridis", vmin=low, vmax=high)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=16, ticks=np.linspace(low, high, 3))
    digits = 0 if high - low > 0.1 else 1 if high - low > 0.01 else 2
    bar.ax.yaxis.set_major_formatter(
        mpl.ticker.FuncFormatter(lambda share, _: f"{100 * share:.{digits}f} %")
    )
    bar.set_label("share of the steps with the patch", fontsize=9)
