"""Schedules of an algorithm that follow the budget of runs, not the number of steps to learn."""

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm


def follow_budget(algorithm: BaseAlgorithm, used: Callable[[], float]) -> None:
    """Let schedules of learning rate, exploration and clipping follow a share of a budget.

    Stable-Baselines3 gives schedules the share of `total_timesteps` that remains. Where the number
    of steps is not known in advance, as with a budget of FLOPs or seconds, `total_timesteps` is an
    upper bound, and schedules would hardly begin. The larger one of the two shares counts.

    The algorithm's class is replaced by a subclass of the same name, so that nothing of this is
    saved with the agent.

    Args:
        algorithm: that learns.
        used: the share of the budget used, in [0, 1].
    """
    follow_steps(algorithm)
    kind: Any = type(algorithm)

    def update(self: BaseAlgorithm, num_timesteps: int, total_timesteps: int) -> None:
        share = max(float(num_timesteps) / float(total_timesteps), used())
        self._current_progress_remaining = 1.0 - share

    members = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "_follows": kind,
        "_update_current_progress_remaining": update,
    }
    algorithm.__class__ = type(kind.__name__, (kind,), members)


def follow_steps(algorithm: BaseAlgorithm) -> None:
    """Let schedules follow the number of steps again, as in Stable-Baselines3."""
    kind: Any = type(algorithm)
    algorithm.__class__ = vars(kind).get("_follows", kind)
