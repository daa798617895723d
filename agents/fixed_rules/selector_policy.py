"""The base class of fixed rules."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor


class SelectorPolicy(BasePolicy):
    """Scores the patches and keeps the `n_keep` with the highest scores.

    Args:
        observation_space: Box(n_patches,), or longer with run features.
        action_space: MultiBinary(n_patches).
        n_keep: number of patches to keep, in 1...n_patches.
        seed: of rules that sample patches.

    Raises:
        ValueError: if n_keep is out of range.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.MultiBinary,
        n_keep: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.n_patches = int(action_space.shape[0])
        self.n_keep = self.check_n_keep(n_keep)
        self.seed = seed
        self.rng = np.random.default_rng(seed)

    def check_n_keep(self, n_keep: int | None) -> int:
        """The number of patches to keep.

        Raises:
            ValueError: if it is out of range.
        """
        if isinstance(n_keep, int) and 1 <= n_keep <= self.n_patches:
            return n_keep
        raise ValueError(
            f"n_keep must be an integer in [1, {self.n_patches}] (n_patches), got {n_keep}"
        )

    @abstractmethod
    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        """Scores (n_patches,) for an observation (n_patches,) or longer."""

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        masks = torch.zeros((len(observation), self.n_patches), dtype=torch.int8)
        for mask, one in zip(masks, observation.cpu().numpy(), strict=True):
            order = np.argsort(-self._scores(one, deterministic), kind="stable")
            mask[order[: self.n_keep]] = 1
        return masks
