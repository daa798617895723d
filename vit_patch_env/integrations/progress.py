"""The share of a training loop's budget that is used before a step."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from vit_patch_env.checks import Count, InputError, check
from vit_patch_env.training.flops import FlopCount


class Progress(Protocol):
    """A budget of a training loop."""

    @property
    def n_steps(self) -> int | None:
        """Steps of the loop; None if only the clock knows."""

    def at(self, step: int) -> float:
        """Share of the budget used before the step, counted from 0: in [0, 1]."""


class OfSteps:
    """A number of steps, whatever they cost.

    Args:
        n_steps: of the loop.
    """

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def at(self, step: int) -> float:
        """Share of the steps done before the step, counted from 0: in [0, 1]."""
        return min(step / self.n_steps, 1.0)


class OfFlops:
    """The FLOPs of a number of steps on all patches: fewer patches allow more steps.

    Args:
        full_steps: how many steps on all patches the budget is worth.
        n_patches: of an image.
        n_keep: maps the share of the budget used to the number of patches of a step.
        step_flops: maps a number of patches to the FLOPs of a step.
    """

    def __init__(
        self,
        full_steps: int,
        n_patches: int,
        n_keep: Callable[[float], int],
        step_flops: Callable[[int], float],
    ) -> None:
        total = full_steps * _positive(step_flops(n_patches))
        used: float = 0
        self._before: list[float] = []
        while used < total:
            self._before.append(used / total)
            used += _positive(step_flops(n_keep(used / total)))
        self.n_steps = len(self._before)

    def at(self, step: int) -> float:
        """Share of the FLOPs used before the step, counted from 0: in [0, 1]."""
        return self._before[step] if step < self.n_steps else 1.0


class OfSeconds:
    """Seconds of wall-clock time since the first step.

    Args:
        seconds: the budget.

    Attributes:
        used: seconds so far.
    """

    n_steps = None

    def __init__(self, seconds: float) -> None:
        self._total = seconds
        self._before = 0.0
        self._since: float | None = None

    @property
    def used(self) -> float:
        """Seconds so far, without pauses."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._before + running

    @used.setter
    def used(self, seconds: float) -> None:
        self._before, self._since = seconds, None

    def at(self, step: int) -> float:
        """Share of the seconds used by now, in [0, 1]."""
        return min(self.used / self._total, 1.0)

    def start(self) -> None:
        """Let the clock run, if it does not yet."""
        if self._since is None:
            self._since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within the block, for an evaluation, say."""
        running, self.used = self._since is not None, self.used
        try:
            yield
        finally:
            if running:
                self._since = time.perf_counter()


def _positive(flops: float) -> float:
    if not flops > 0:
        raise InputError(f"step_flops must be above 0, got {flops}")
    return flops


def count_step_flops(model: nn.Module, images: Tensor) -> Callable[[int], float]:
    """FLOPs of a training step as a function of the number of patches.

    Args:
        model: takes `model(images, keep)`, and has `n_patches`; it is copied, and not trained.
        images: a normalised batch, whose shape counts.

    Returns:
        A function of the number of patches, from 1.

    Raises:
        RuntimeError: whatever torch raises for a model whose FLOPs cannot be counted.
    """
    _check_n_patches(model)
    return partial(FlopCount(model).train_step, images)


def _check_n_patches(model: Any) -> None:
    if not hasattr(model, "n_patches"):
        raise InputError(
            "expected a model with n_patches, as select_patches gives it, got a "
            f"{type(model).__name__}"
        )
    check(Count, n_patches=model.n_patches)
