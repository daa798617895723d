"""The base class of fixed rules."""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.agents.common.patch_policy import PatchPolicy
from vit_patch_env.checks import ArgumentError, plain, shown
from vit_patch_env.patches.sampling import Grid


class SelectorPolicy(PatchPolicy):
    """Scores the patches and keeps the `n_keep` with the highest scores.

    Args:
        observation_space: Box(n_patches,), or longer with run features.
        action_space: MultiBinary(n_patches).
        n_keep: number of patches to keep, in 1...n_patches.
        seed: of rules that sample patches.
        grid: rows and columns of patches, if they are known.

    Raises:
        ValueError: if n_keep is not an integer in this range, or for other spaces.

    Attributes:
        observation: of the environment that the rule is for; `none` costs nothing.
    """

    observation: ClassVar[str] = "none"

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.MultiBinary,
        n_keep: int | None = None,
        seed: int | None = None,
        grid: Grid | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, seed, grid)
        self.n_keep = self.check_n_keep(n_keep)

    def check_n_keep(self, n_keep: int | None) -> int:
        """The number of patches to keep, as Python's own integer.

        Raises:
            ValueError: if it is not an integer, NumPy's included, or out of range.
        """
        return check_n_keep(n_keep, self.n_patches)

    @abstractmethod
    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        """Scores (n_patches,) for an observation (n_patches,) or longer."""

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        masks = torch.zeros((len(observation), self.n_patches), dtype=torch.int8)
        for mask, one in zip(masks, observation.cpu().numpy(), strict=True):
            order = np.argsort(-self._scores(one, deterministic), kind="stable")
            mask[order[: self.n_keep]] = 1
        return masks


def check_n_keep(n_keep: Any, n_patches: int) -> int:
    """A number of patches to keep, as Python's own integer.

    Raises:
        ValueError: if it is not an integer, NumPy's included, in 1...n_patches.
    """
    number = plain(n_keep)
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= n_patches:
        return int(number)
    raise ArgumentError(
        "n_keep", f"must be an integer in [1, {n_patches}] (n_patches), got {shown(number)}"
    )
