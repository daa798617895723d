"""The base class of policies that sample patches from a generator of their own."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy

from vit_patch_env.checks import ArgumentError, InputError, named, shown
from vit_patch_env.patches.sampling import Grid, known_grid

RUN_FEATURES = 3
"""Number of run features at the end of an observation; the first is the progress."""


class PatchPolicy(BasePolicy):
    """A policy for MultiBinary(n_patches) with its own random generator.

    Args:
        observation_space: of the environment; an array, no Dict.
        action_space: MultiBinary(n_patches).
        seed: of the generator.
        grid: rows and columns of patches, if they are known.

    Attributes:
        n_patches: number of patches.
        grid: as the argument; None if it is not known, or not one of so many patches.
        seed: of the generator.
        rng: the generator.

    Raises:
        ValueError: for another action space, or observations that are not arrays.
    """

    seed: int | None
    rng: np.random.Generator

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.MultiBinary,
        seed: int | None = None,
        grid: Grid | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.n_patches = count_patches(action_space)
        self.grid = known_grid(self.n_patches, grid)
        if observation_space.shape is None:
            raise ArgumentError(
                "observation_space", f"must be one of arrays, got {shown(observation_space)}"
            )
        self.reseed(seed)

    def reseed(self, seed: int | None) -> None:
        """Start the generator again from a seed."""
        self.seed = seed
        self.rng = np.random.default_rng(seed)


def count_patches(action_space: spaces.Space[Any]) -> int:
    """The number of patches that an action space selects among.

    Raises:
        ValueError: for another space than MultiBinary(n_patches).
    """
    if not isinstance(action_space, spaces.MultiBinary) or len(action_space.shape) != 1:
        raise ArgumentError("action_space", f"must be MultiBinary(n_patches), got {action_space}")
    return int(action_space.shape[0])


def check_run_features(observation_space: spaces.Space[Any], n_patches: int, who: str) -> None:
    """Require an observation of a value per patch and the run features.

    Args:
        observation_space: of the environment.
        n_patches: number of patches.
        who: needs them, in words.

    Raises:
        InputError: for one of another shape.
    """
    shape, expected = observation_space.shape, (n_patches + RUN_FEATURES,)
    if shape != expected:
        raise InputError(
            f"{who} needs an {named('observation')} with run features, such as none+run, "
            f"of shape {expected}, got {shape}"
        )


def observed_progress(observation: NDArray[Any], n_patches: int) -> float:
    """The share of the budget used, which an observation has after the values of the patches.

    Raises:
        ArgumentError: if it is not in [0, 1].
    """
    progress = observation[n_patches]
    if not 0 <= progress <= 1:
        raise ArgumentError(
            "observation",
            f"must have the share of the budget used, in [0, 1], as number {n_patches} "
            f"(VecNormalize with norm_obs changes it), got {progress}",
        )
    return float(progress)
