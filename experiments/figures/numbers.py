"""The figures of a run's test images as numbers."""

from typing import Any, NamedTuple

import numpy as np

from vit_patch_env.training.evaluation import Evaluated
from vit_patch_env.training.predictions import (
    LARGEST_MATRIX,
    Predictions,
    calibration_error,
    class_figures,
    confusion_matrix,
    top_accuracy,
)


class Evaluations(NamedTuple):
    """A ViT on the test images.

    Attributes:
        all_patches: metrics and predictions on all patches.
        agent_patches: the same on those that an agent picks.
        n_selected_mean: how many those are, averaged over the batches.
    """

    all_patches: Evaluated
    agent_patches: Evaluated
    n_selected_mean: float

    def result(self) -> dict[str, Any]:
        """Metrics and figures for result.json."""
        both = {"all_patches": self.all_patches, "agent_patches": self.agent_patches}
        return {
            "test": {
                **{name: one.metrics._asdict() for name, one in both.items()},
                "n_selected_mean": self.n_selected_mean,
            },
            "figures": {name: figures(one.predictions) for name, one in both.items()},
        }


def figures(found: Predictions) -> dict[str, Any]:
    """The figures of predictions as plain data: `_FigureFields` in `run_folder/schemas.py`."""
    by_class = class_figures(found)
    small = found.n_classes <= LARGEST_MATRIX
    return {
        "n_images": by_class.n_items.tolist(),
        "precision": by_class.precision.tolist(),
        "recall": by_class.recall.tolist(),
        "f1": by_class.f1.tolist(),
        "top_5_accuracy": top_accuracy(found),
        "calibration_error": calibration_error(found),
        "confusion": confusion_matrix(found, np.arange(found.n_classes)).tolist()
        if small
        else None,
    }
