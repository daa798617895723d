"""Evaluation of a model on labelled images."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit_patch_env.data.batches import Batch, Preparation
from vit_patch_env.data.images import ALL, in_batches
from vit_patch_env.data.splits import Split
from vit_patch_env.system.torch_state import own_torch_state
from vit_patch_env.training.precision import Precision
from vit_patch_env.training.predictions import Predictions, predictions


class Metrics(NamedTuple):
    """Metrics of a classifier: mean cross-entropy, accuracy and macro averages, all in [0, 1]."""

    loss: float
    accuracy: float
    precision: float
    recall: float
    f1: float


class Evaluated(NamedTuple):
    """Metrics on a split, and the predictions that they were computed from."""

    metrics: Metrics
    predictions: Predictions


@torch.no_grad()
def scores(
    model: nn.Module,
    split: Split,
    *,
    normalize: Preparation,
    batch_size: int,
    precision: Precision,
    select: Callable[[Tensor], Tensor | None] | None = None,
    some: slice = ALL,
) -> Tensor:
    """Logits of a split's items, (n, n_classes) float32; the model is left in evaluation mode.

    Args:
        model: maps normalised images and patches to keep to logits.
        split: uint8 images and labels on the model's device.
        normalize: maps uint8 images to what the model takes.
        batch_size: images per batch.
        precision: of the model's matrix products.
        select: maps a batch of normalised images to the patches to keep (None: all).
        some: of the batches, one or more; by default all.
    """
    model.eval()
    logits = []
    for part in in_batches(split.images, batch_size, some):
        with own_torch_state(gradients=False):
            images = normalize(part.to(precision.device))
        keep = None if select is None else select(images)  # in the caller's torch state
        with own_torch_state(gradients=False, model=model), precision.autocast():
            logits.append(model(images, keep).float())
    return torch.cat(logits)


def evaluated(scores: Tensor, split: Split) -> Evaluated:
    """Metrics and predictions from the logits of a split's items.

    Returns:
        Loss without label smoothing, accuracy, and macro precision, recall and F1 over the classes
        that the split has images of; and the predictions, in the order of the split.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support  # takes a second

    found = predictions(scores, split.labels)
    labels, predicted = found.labels, found.predicted
    macro_precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0
    )
    metrics = Metrics(
        loss=F.cross_entropy(scores, split.labels).item(),
        accuracy=float(accuracy_score(labels, predicted)),
        precision=float(macro_precision),
        recall=float(recall),
        f1=float(f1),
    )
    return Evaluated(metrics, found)


def sum_of_losses(model: nn.Module, batches: Sequence[Batch], precision: Precision) -> float:
    """Sum of the cross-entropies of a model on all patches of normalised batches."""
    model.eval()
    losses = []
    with own_torch_state(gradients=False, model=model):
        for images, labels in batches:
            with precision.autocast():
                logits: Any = model(images)
            losses.append(F.cross_entropy(logits.float(), labels, reduction="sum"))
        return float(torch.stack(losses).sum()) if losses else 0.0
