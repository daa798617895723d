"""The worst mistakes as a picture."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vit_patch_env.checks import counted
from vit_patch_env.data.splits import Split
from vit_patch_env.experiments.figures.drawing import drawn, fitted
from vit_patch_env.training.predictions import Predictions, worst_mistakes

N_SHOWN = 25
_COLUMNS = 5

_LONGEST = 13
"""Columns of a terminal that the longest name of a class takes, as space below an image ends."""

_TRUE, _PREDICTED = "#0072B2", "#B84A00"
"""Blue and vermilion, which colour-blind readers can distinguish."""

_CELL = 2.0
"""Width of a column, in inches."""

_TEXT = 0.4
"""Height of the text below an image, as a share of a column's width."""

_TITLE = 0.7
"""Height of the title, in inches."""

_FONT_SIZE = 15
"""In points, so that the text can be read where the picture is 480 pixels wide."""


def draw_mistakes(split: Split, found: Predictions, classes: Sequence[str]) -> NDArray[np.uint8]:
    """The mistakes with the highest probability: (height, width, 3) uint8.

    Images of one channel are grey, of three RGB; of others the mean of the channels is drawn.

    Args:
        split: the images, of which only those that are drawn are read.
        found: the predictions for them.
        classes: names of the classes.
    """
    chosen = worst_mistakes(found, N_SHOWN)
    n_mistakes = int((found.labels != found.predicted).sum())
    n_rows = max(1, math.ceil(len(chosen) / _COLUMNS))
    height = n_rows * (1 + _TEXT)
    height_inches = height * _CELL + _TITLE
    figure = Figure(figsize=(_COLUMNS * _CELL, height_inches))
    axes = figure.add_axes((0.0, 0.0, 1.0, height * _CELL / height_inches))
    axes.set_axis_off()
    title_y = 1 - _TITLE / 2 / height_inches
    title = _title(found, n_mistakes, len(chosen))
    figure.text(0.5, title_y, title, ha="center", va="center", fontsize=_FONT_SIZE)
    images = split.images[chosen].cpu().numpy() if len(chosen) else ()
    for place, (index, image) in enumerate(zip(chosen, images, strict=True)):
        row, column = divmod(place, _COLUMNS)
        _draw_image(axes, image, column, row * (1 + _TEXT))
        lines = (
            (fitted(classes[found.labels[index]], _LONGEST), _TRUE),
            (f"✗ {fitted(classes[found.predicted[index]], _LONGEST)}", _PREDICTED),
            (_probability(found.probability[index]), "black"),
        )
        for line, (text, colour) in enumerate(lines):
            y = row * (1 + _TEXT) + 1.0 + 0.125 * line
            axes.text(
                column + 0.5, y, text, color=colour, fontsize=_FONT_SIZE, ha="center", va="center"
            )
    axes.set(xlim=(0, _COLUMNS), ylim=(height, 0), aspect="auto")
    return drawn(figure, 100)


def _title(found: Predictions, n_mistakes: int, n_shown: int) -> str:
    n_images = counted(len(found.labels), "test image")
    title = f"{counted(n_mistakes, 'mistake')} on {n_images}, all patches"
    if not n_shown:
        return title
    most = f"the {n_shown} with the highest probability: " * (n_mistakes > n_shown)
    return f"{title}\n{most}true class, ✗ prediction"


def _probability(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "not finite"


def _draw_image(axes: Axes, image: NDArray[np.uint8], x: float, y: float) -> None:
    """Draw (channels, height, width) into the middle of a square of side 0.94."""
    channels, height, width = image.shape
    scale = 0.9 / max(height, width)
    left, top = x + (1 - width * scale) / 2, y + 0.02 + (0.92 - height * scale) / 2
    pixels = image.transpose(1, 2, 0) if channels == 3 else image.mean(axis=0)
    axes.imshow(
        pixels, cmap="gray", vmin=0, vmax=255, aspect="auto",
        extent=(left, left + width * scale, top + height * scale, top),
    )  # fmt: skip
