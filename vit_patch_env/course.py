"""What pictures show of an episode: its last step, and the course of its steps so far."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.checks import check_integer

MAX_POINTS = 512
"""Points of a course; at that many, each two become one, so that memory stays the same."""


class ShownStep(NamedTuple):
    """The first images of a training batch, and what was chosen and predicted.

    Attributes:
        images: normalised, (n, channels, height, width); token ids (n, n_tokens) of texts.
        patch_mask: (n_patches,), True = trained on.
        labels: classes (n,) or, with mixup, probabilities (n, n_classes). As the rest, None in
            checkpoints of earlier versions.
        logits: of the training step itself, on the selected patches, (n, n_classes).
        values: the observation that the patches were selected by, without run features,
            (n_patches,).
        of_each: the patches that each image was trained on, (n, n_patches), where they differ.
    """

    images: Tensor
    patch_mask: NDArray[np.bool_]
    labels: Tensor | None = None
    logits: Tensor | None = None
    values: NDArray[np.float32] | None = None
    of_each: NDArray[np.bool_] | None = None

    def state(self) -> tuple[Tensor | None, ...]:
        """Tensors that can be saved; cloned, as otherwise the entire batch would be written."""
        arrays = (self.patch_mask, self.values, self.of_each)
        mask, values, each = (None if one is None else torch.from_numpy(one) for one in arrays)
        tensors = (self.images, self.labels, self.logits)
        images, labels, logits = (None if one is None else one.clone() for one in tensors)
        return images, mask, labels, logits, values, each

    @staticmethod
    def from_state(state: tuple[Any, ...], device: torch.device) -> "ShownStep":
        """The step of `state`, on a device."""
        images, mask, *rest = state
        labels, logits, values, each = (*rest, None, None, None, None)[:4]
        return ShownStep(
            images.to(device),
            mask.numpy(),
            None if labels is None else labels.to(device),
            None if logits is None else logits.to(device),
            None if values is None else values.numpy(),
            None if each is None else each.numpy(),
        )


class CoursePoint(NamedTuple):
    """Loss, reward and number of selected patches of a step, or their means over some steps."""

    loss: float
    reward: float
    n_selected: float


class Course:
    """Loss, reward and number of selected patches of an episode's steps, as a curve needs them.

    Attributes:
        points: means over `stride` steps each, fewer than `MAX_POINTS`.
        stride: steps of a point.
        last: the last step; None before the first one.
    """

    def __init__(self) -> None:
        self.points: list[CoursePoint] = []
        self.stride = 1
        self.last: CoursePoint | None = None
        self._waiting: list[CoursePoint] = []

    def add(self, loss: float, reward: float, n_selected: int) -> None:
        """Add a step."""
        self.last = CoursePoint(loss, reward, n_selected)
        self._waiting.append(self.last)
        if len(self._waiting) < self.stride:
            return
        self.points.append(_mean(self._waiting))
        self._waiting.clear()
        if len(self.points) == MAX_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [_mean(pair) for pair in pairs]
            self.stride *= 2

    def state_dict(self) -> dict[str, Any]:
        """The points, as plain data and tensors."""
        return {
            "stride": self.stride,
            "points": _tensor(self.points),
            "waiting": _tensor(self._waiting),
            "last": None if self.last is None else tuple(self.last),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another course.

        Raises:
            ValueError: for another number of points than a course has.
        """
        points, waiting, last = state["points"], state["waiting"], state["last"]
        check_integer(0, MAX_POINTS - 1, points=len(points))
        check_integer(1, stride=state["stride"])
        check_integer(0, state["stride"] - 1, waiting=len(waiting))
        self.stride = state["stride"]
        self.points = [CoursePoint(*row) for row in points.tolist()]
        self._waiting = [CoursePoint(*row) for row in waiting.tolist()]
        self.last = None if last is None else CoursePoint(*map(float, last))


def _mean(points: "list[CoursePoint] | tuple[CoursePoint, ...]") -> CoursePoint:
    n_points = len(points)
    return CoursePoint(*(sum(values) / n_points for values in zip(*points, strict=True)))


def _tensor(points: list[CoursePoint]) -> Tensor:
    """(n_points, 3) float64."""
    of_point = len(CoursePoint._fields)
    return torch.tensor(points, dtype=torch.float64, device="cpu").view(-1, of_point)
