"""The confusion matrix as a picture."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.cells import cell_len

from vit_patch_env.checks import counted
from vit_patch_env.experiments.figures.drawing import drawn, fitted
from vit_patch_env.training.predictions import Predictions, class_figures, confusion_matrix

_MOST_CLASSES = 100
"""Classes that are drawn: those with the most mistakes where there are more."""

_NUMBERED = 20
"""Classes up to which numbers are written into the cells."""

_LONGEST = 24
"""Columns of a terminal that the longest name of a class takes."""


def draw_confusion(found: Predictions, classes: Sequence[str]) -> NDArray[np.uint8]:
    """The confusion matrix, rows of true classes: (height, width, 3) uint8.

    Colours are shares of the images of a class.

    Args:
        found: the predictions.
        classes: names of the classes.
    """
    chosen = _chosen(found)
    counts = confusion_matrix(found, chosen)
    n_images = class_figures(found).n_items[chosen]
    shares = np.ma.masked_where(
        np.broadcast_to(n_images[:, None] == 0, counts.shape),
        counts / np.maximum(n_images, 1)[:, None],
    )
    names = [fitted(classes[one], _LONGEST) for one in chosen.tolist()]
    numbered = len(chosen) <= _NUMBERED
    cell, size = (0.5, 9.0) if numbered else (0.13, 6.5)
    side = max(cell * len(chosen), 2.0)
    # By hand, as matplotlib's layouts draw everything several times.
    longest = max(map(cell_len, names)) * size * 0.62 / 72
    upright = longest > 0.9 * side / len(chosen)
    left, below = 0.5 + longest, 0.5 + (longest if upright else size / 72)
    width, height = left + side + 1.2, below + side + 0.7
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, below / height, side / width, side / height))
    bar_side = min(side, 5.0)
    bar_below = (below + side - bar_side) / height
    bar = figure.add_axes((1 - 1.0 / width, bar_below, 0.2 / width, bar_side / height))
    # Rare mistakes would be invisible among many classes.
    norm = Normalize(0, 1) if numbered else PowerNorm(0.5, 0, 1)
    axes.set_facecolor("#D0D0D0")  # of classes without images
    image = axes.imshow(shares, cmap="Blues", norm=norm)
    places = range(len(chosen))
    axes.set_xticks(places, names, fontsize=size, rotation=90 if upright else 0)
    axes.set_yticks(places, names, fontsize=size)
    figure.text(
        (left + side / 2) / width, 0.12 / height, "predicted class", ha="center", fontsize=9
    )
    figure.text(
        0.08 / width,
        (below + side / 2) / height,
        "true class",
        va="center",
        rotation=90,
        fontsize=9,
    )
    axes.set_title(_title(found, len(chosen), bool((n_images == 0).any())), fontsize=9, loc="left")
    figure.colorbar(image, cax=bar).set_label("share of the class's test images", fontsize=9)
    bar.tick_params(labelsize=8)
    if numbered:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, f"{counts[row, column]}",
                ha="center", va="center", color=colour, fontsize=8 if counts.max() < 1000 else 6.5,
            )  # fmt: skip
    return drawn(figure, 120)


def _chosen(found: Predictions) -> NDArray[np.int64]:
    """The classes that are drawn, in their order."""
    if found.n_classes <= _MOST_CLASSES:
        return np.arange(found.n_classes)
    wrong = found.labels[found.labels != found.predicted]
    n_mistakes = np.bincount(wrong, minlength=found.n_classes)
    return np.sort(np.argsort(-n_mistakes, kind="stable")[:_MOST_CLASSES])


def _title(found: Predictions, n_chosen: int, some_empty: bool) -> str:
    title = f"{counted(len(found.labels), 'test image')}, all patches"
    if n_chosen < found.n_classes:
        title += f"\nthe {n_chosen} of {found.n_classes:,} classes with the most mistakes"
    return title + "\ngrey: no test images" * some_empty
