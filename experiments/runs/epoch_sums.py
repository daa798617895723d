"""Metrics of a training step, and the sums and times that an epoch's metrics are computed from."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class StepMetrics(NamedTuple):
    """One step of the first environment, and the mean number of patches of its epoch so far."""

    step: int
    info: dict[str, Any]
    epsilon: float | None
    n_selected_mean: float


class Clock(NamedTuple):
    """Seconds since training started, by what they were spent on, up to the last epoch's end.

    Attributes:
        total: all of them.
        train: training steps of the ViT.
        excluded: monitoring (evaluation, logging), resets, checkpoints, counting FLOPs.
    """

    total: float = 0.0
    train: float = 0.0
    excluded: float = 0.0

    @property
    def agent(self) -> float:
        """The rest: observation, prediction, replay and updates."""
        return self.total - self.train - self.excluded


@dataclass
class EpochSums:
    """Sums over the steps of an epoch.

    Attributes:
        start: the clock at the start of the epoch.
        patch_masks: sum of the patch masks, (n_patches,).
        n_selected: patches selected in each step.
        step_seconds: of each training step, without the agent's.
        rates: share of tokens in each step, of models that change it; NaN for others.
        loss: sum of the training losses.
        reward: sum of the rewards.
        n_skipped: steps whose gradient was not finite.
    """

    start: Clock
    patch_masks: NDArray[np.float64]
    n_selected: list[int] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    loss: float = 0.0
    reward: float = 0.0
    n_skipped: int = 0

    @property
    def n_steps(self) -> int:
        """Steps so far."""
        return len(self.n_selected)

    @property
    def n_selected_mean(self) -> float:
        """Patches selected per step."""
        return sum(self.n_selected) / self.n_steps

    def add(
        self,
        info: dict[str, Any],
        reward: float,
        patch_mask: NDArray[np.bool_],
        seconds: float,
        rate: float | None,
    ) -> None:
        """Add a step."""
        self.n_selected.append(info["n_selected"])
        self.step_seconds.append(seconds)
        self.rates.append(math.nan if rate is None else rate)
        self.loss += info["loss"]
        self.reward += reward
        self.n_skipped += info["skipped"]
        self.patch_masks += patch_mask

    def state_dict(self) -> dict[str, Any]:
        """The sums, as plain data and arrays."""
        return {**vars(self), "start": tuple(self.start)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "EpochSums":
        """The sums that `state_dict` was called on; those of earlier versions have no times."""
        unknown = [math.nan] * len(state["n_selected"])
        times = {"step_seconds": [*unknown], "rates": unknown}
        return cls(**{**times, **state, "start": Clock(*state["start"])})
