"""The fixed rules, by name in `RULES`.

To add a rule, write a SelectorPolicy here and enter it in `RULES`. The first line of its docstring
describes it in tables of the documentation.
"""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.agents.fixed_rules.selector_policy import SelectorPolicy
from vit_patch_env.checks import ArgumentError, check, counted
from vit_patch_env.patches.sampling import grid_of, sample_spread


class AllPatches(SelectorPolicy):
    """Keeps all patches, independently of `n_keep`: plain ViT training."""

    def check_n_keep(self, n_keep: int | None) -> int:
        """The number of all patches."""
        check(int | None, n_keep=n_keep)
        return self.n_patches

    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        return np.zeros(self.n_patches)


class RandomPatches(SelectorPolicy):
    """Keeps uniformly random patches, sampled for each batch.

    With `deterministic=True` they depend only on the seed, the observation and the policy's state,
    which counts the predictions so far. So an evaluation is reproducible.
    """

    _n_before = 0

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """Patch masks and the next state: the number of predictions including this one."""
        self._n_before = 0 if state is None else int(state[0])
        actions, _ = super().predict(observation, None, episode_start, deterministic)
        return actions, (np.array(self._n_before + 1),)

    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        return self._rng(observation, deterministic).random(self.n_patches)

    def _rng(self, observation: NDArray[Any], deterministic: bool) -> np.random.Generator:
        """The generator to sample from."""
        if not deterministic:
            return self.rng
        key = zlib.crc32(np.ascontiguousarray(observation).tobytes())
        return np.random.default_rng([self.seed or 0, key, self._n_before])


class SpreadPatches(RandomPatches):
    """Keeps random patches spread evenly over the image, sampled for each batch."""

    def check_n_keep(self, n_keep: int | None) -> int:
        """The number of patches to keep.

        Raises:
            ValueError: if it is out of range, or the grid is not known and no square.
        """
        grid_of(self.n_patches, self.grid)
        return super().check_n_keep(n_keep)

    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        rng = self._rng(observation, deterministic)
        return sample_spread(np.zeros(self.n_patches), self.n_keep, rng, self.grid)


class CentrePatches(SelectorPolicy):
    """Keeps the patches nearest the image's centre, the same in each batch."""

    def check_n_keep(self, n_keep: int | None) -> int:
        """The number of patches to keep.

        Raises:
            ValueError: if it is out of range, or the grid is not known and no square.
        """
        grid_of(self.n_patches, self.grid)
        return super().check_n_keep(n_keep)

    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        rows, columns = (
            (np.arange(side) - (side - 1) / 2) ** 2 for side in grid_of(self.n_patches, self.grid)
        )
        return -(rows[:, None] + columns).ravel()


class MostAttendedPatches(SelectorPolicy):
    """Keeps the patches with the highest values of the observation, such as attention received."""

    observation = "attention_received"

    def check_n_keep(self, n_keep: int | None) -> int:
        """The number of patches to keep.

        Raises:
            ValueError: if it is out of range, or the observation has no value for each patch.
        """
        shape = self.observation_space.shape
        if shape is None or len(shape) != 1 or shape[0] < self.n_patches:
            raise ArgumentError(
                "observation_space",
                f"must have {counted(self.n_patches, 'number')} or more, one for each patch, got "
                f"{shape}",
            )
        return super().check_n_keep(n_keep)

    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        return observation[: self.n_patches]  # run features may follow


RULES: dict[str, type[SelectorPolicy]] = {
    "all": AllPatches,
    "random": RandomPatches,
    "spread": SpreadPatches,
    "centre": CentrePatches,
    "attended": MostAttendedPatches,
}
"""Every fixed rule by the name that `FixedRule` and the command line take."""
