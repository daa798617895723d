"""The files with the figures of a run: predictions.csv, confusion.png and mistakes.png."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.logger import Image

from vit_patch_env.data.splits import ImageData, SplitData
from vit_patch_env.experiments.figures.confusion import draw_confusion
from vit_patch_env.experiments.figures.drawing import write_png
from vit_patch_env.experiments.figures.mistakes import draw_mistakes
from vit_patch_env.experiments.figures.numbers import Evaluations
from vit_patch_env.experiments.figures.table import write_predictions
from vit_patch_env.experiments.run_folder.folder import (
    CONFUSION,
    MISTAKES,
    PREDICTIONS,
    RunFolder,
)
from vit_patch_env.system.escaping import markdown
from vit_patch_env.training.predictions import calibration_error, class_figures, top_accuracy

Pictures = dict[str, NDArray[np.uint8]]
"""By their files: (height, width, 3) uint8."""


def figure_files(data: SplitData) -> tuple[str, ...]:
    """The files that there can be: texts have no picture of the mistakes."""
    pictures = (CONFUSION, MISTAKES) if isinstance(data, ImageData) else (CONFUSION,)
    return PREDICTIONS, *pictures


def draw_pictures(tested: Evaluations, data: SplitData, names: Collection[str]) -> Pictures:
    """Those of the files that are pictures.

    Args:
        tested: the predictions, of which those on all patches are drawn.
        data: the images.
        names: of files.
    """
    found, pictures = tested.all_patches.predictions, {}
    if CONFUSION in names:
        pictures[CONFUSION] = draw_confusion(found, data.classes)
    if MISTAKES in names:
        pictures[MISTAKES] = draw_mistakes(data.test, found, data.classes)
    return pictures


def write_figures(
    folder: RunFolder,
    tested: Evaluations,
    data: SplitData,
    pictures: Mapping[str, NDArray[np.uint8]],
    *,
    table: bool = True,
) -> None:
    """Write the files, replacing existing ones.

    Args:
        folder: that they are written to.
        tested: the predictions.
        data: the images.
        pictures: by their files.
        table: whether predictions.csv is written.

    Raises:
        OSError: if one cannot be written.
    """
    if table:
        folder.write(
            folder.path / PREDICTIONS,
            lambda path: write_predictions(path, tested, data.test_names, data.classes),
        )
    for name, pixels in pictures.items():
        folder.write(folder.path / name, partial(write_png, pixels=pixels))


def points(tested: Evaluations, data: SplitData, pictures: Pictures) -> dict[str, Any]:
    """What TensorBoard shows of the test images, by tag."""
    found = tested.all_patches.predictions
    scalars = {
        "test/accuracy": tested.all_patches.metrics.accuracy,
        "test/agent_accuracy": tested.agent_patches.metrics.accuracy,
        "test/calibration_error": calibration_error(found),
        "test/top_5_accuracy": top_accuracy(found),
    }
    images = {f"test/{name.partition('.')[0]}": Image(one, "HWC") for name, one in pictures.items()}
    return {
        **{tag: value for tag, value in scalars.items() if value is not None},
        "test/classes": _class_table(tested, data),
        **images,
    }


def _class_table(tested: Evaluations, data: SplitData) -> str:
    """The figures of each class as a table in Markdown."""
    by_class = class_figures(tested.all_patches.predictions)
    lines = ["| class | images | precision | recall | F1 |", "|---|--:|--:|--:|--:|"]
    for name, precision, recall, f1, n_items in zip(data.classes, *by_class, strict=True):
        cells = (f"{share:.2%}" if n_items else "-" for share in (precision, recall, f1))
        lines.append(f"| {markdown(name)} | {n_items:,} | {' | '.join(cells)} |")
    return "\n".join(lines)
