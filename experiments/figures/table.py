"""predictions.csv: a row for each test image."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from vit_patch_env.experiments.figures.numbers import Evaluations
from vit_patch_env.system.shown import escaped_line

COLUMNS = ("image", "class", "predicted", "probability", "agent_predicted", "agent_probability")


def write_predictions(
    path: Path, tested: Evaluations, names: Sequence[str], classes: Sequence[str]
) -> None:
    """Write the predictions for each test image, on all patches and on the agent's.

    Args:
        path: of the file.
        tested: the predictions.
        names: paths or names of the images, in their order; if empty, they are numbered from 0.
        classes: names of the classes.

    Raises:
        OSError: if it cannot be written.
    """
    on_all, on_own = tested.all_patches.predictions, tested.agent_patches.predictions
    shown = [escaped_line(name) for name in classes]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for index, label in enumerate(on_all.labels.tolist()):
            table.writerow([
                escaped_line(names[index]) if names else index,
                shown[label],
                shown[on_all.predicted[index]],
                _number(on_all.probability[index]),
                shown[on_own.predicted[index]],
                _number(on_own.probability[index]),
            ])  # fmt: skip


def _number(probability: float) -> str:
    return f"{probability:.6g}" if math.isfinite(probability) else ""
