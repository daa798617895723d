"""The training loss: cross-entropy, with class weights, or a function of the user's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vit_patch_env.checks import ArgumentError, shown
from vit_patch_env.system.torch_state import float32_by_default, own_torch_state
from vit_patch_env.training.ranks import Ranks

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (batch, n_classes) float32 and labels, as in `Batch`, to a 0-d tensor."""


class CrossEntropy:
    """Mean cross-entropy of a batch, of labels as classes or as probabilities.

    Args:
        label_smoothing: in [0, 1).
        class_weights: (n_classes,) float32 on the device; None for equal ones. The mean over a
            batch of classes is weighted as well, as in `torch.nn.CrossEntropyLoss`.
        ranks: the processes that have a part of each batch, whose losses are averaged: the mean of
            theirs is that of the whole batch. None for a single one.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self._ranks = ranks

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, 0-d."""
        weights, ranks = self.class_weights, self._ranks
        loss = partial(
            F.cross_entropy, logits, labels, weight=weights, label_smoothing=self.label_smoothing
        )
        if weights is None or ranks is None or labels.dim() > 1:  # all parts count the same
            return loss()
        return loss(reduction="sum") / ranks.mean(weights[labels].sum())


def balanced_weights(labels: Tensor, classes: tuple[str, ...]) -> Tensor:
    """Weights that give every class the same share of the loss: (n_classes,) float32, mean near 1.

    As scikit-learn's `class_weight="balanced"`: n_images / (n_classes * images of the class).

    Args:
        labels: (n_images,) int64, of the training images.
        classes: their names.

    Raises:
        ArgumentError: if a class has no images.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    missing = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
    if missing:
        raise ArgumentError(
            "class_weights",
            f"balanced needs training images of every class, got none of {missing[0]}",
        )
    return len(labels) / (len(classes) * counts.float())


class UserLoss:
    """A loss of the user's, checked on a small example.

    Args:
        function: of (logits, labels).
        n_classes: of the data.
        soft: whether labels are probabilities, as with mixup.
        device: of logits and labels.

    Raises:
        ArgumentError: if it does not return a 0-d tensor that depends on the logits.
    """

    def __init__(
        self, function: Callable[..., Any], *, n_classes: int, soft: bool, device: torch.device
    ) -> None:
        self.function = function
        with own_torch_state():
            logits = torch.zeros(2, n_classes, dtype=torch.float32, device=device)
            labels: Tensor = torch.zeros(2, dtype=torch.int64, device=device)
            if soft:
                labels = F.one_hot(labels, n_classes).float()
            of = f"logits (2, {n_classes}) and labels {tuple(labels.shape)}"
            try:
                value = self(logits.requires_grad_(), labels)
            except Exception as error:  # whatever it raises
                reason = str(error).split("\n")[0] or type(error).__name__
                raise ArgumentError("loss", f"must take {of}, got an error: {reason}") from error
        if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
            if isinstance(value, Tensor) and not value.dim():
                got = "one without a gradient"
            raise ArgumentError(
                "loss", f"must return a tensor of shape () that depends on the logits, got {got}"
            )

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, 0-d."""
        with float32_by_default:
            loss: Tensor = self.function(logits, labels)
        return loss
