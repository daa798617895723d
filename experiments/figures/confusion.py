"""The confusion matrix as a picture."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vit_patch_env.checks import counted
from vit_patch_env.experiments.figures.drawing import drawn
from vit_patch_env.system.escaping import label
from vit_patch_env.training.predictions import Predictions, class_figures, confusion_matrix

_MOST_CLASSES = 100
"""Classes that are drawn: those with the most mistakes where there are more."""

_NUMBERED = 20
"""Classes up to which numbers are written into the cells."""

_LONGEST = 24
"""Characters of the longest name of a class."""


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
    numbered = len(chosen) <= _NUMBERED
    names = [label(classes[one], _LONGEST) for one in chosen]
    longest = max(map(len, names))
    cell, size = (0.5, 9.0) if numbered else (0.13, 6.5)
    side = max(cell * len(chosen), 2.0)
    margin = 0.6 + longest * size / 110  # inches
    figure = Figure(figsize=(side + margin + 1.1, side + margin + 0.5), layout="constrained")
    axes = figure.subplots()
    # Rare mistakes would be invisible among many classes.
    norm = Normalize(0, 1) if numbered else PowerNorm(0.5, 0, 1)
    axes.set_facecolor("#D0D0D0")  # of classes without images
    image = axes.imshow(shares, cmap="Blues", norm=norm)
    places = range(len(chosen))
    axes.set_xticks(places, names, fontsize=size, rotation=90 if longest > 3 else 0)
    axes.set_yticks(places, names, fontsize=size)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(_title(found, len(chosen)), fontsize=10)
    figure.colorbar(image, ax=axes, label="share of the class's test images", shrink=0.8)
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


def _title(found: Predictions, n_chosen: int) -> str:
    title = f"{counted(len(found.labels), 'test image')}, all patches"
    if n_chosen < found.n_classes:
        title += f"\nthe {n_chosen} of {found.n_classes:,} classes with the most mistakes"
    return title
