"""Wrappers that let algorithms for Box and Discrete actions pick the patches."""

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vit_patch_env.checks import InputError, check_choice, check_integer, counted, shown
from vit_patch_env.patches.sampling import SAMPLERS, Grid, SamplingName, grid_of_env
from vit_patch_env.patches.selection import top_k_mask

CountSamplingName = SamplingName | Literal["attended"]

_SAMPLING_STREAM = 0x9A7C4
"""Keeps the sampled patches independent of the environment's own random numbers."""


class TopKAction(
    gym.ActionWrapper[Any, NDArray[Any], NDArray[np.int8]], gym.utils.RecordConstructorArgs
):
    """Pick a score per patch and a number of patches: for SAC, TD3 and others with Box actions.

    ## Action space
    `Box(-1, 1, (n_patches + 1,))`: a score for each patch, then the number of patches, where
    [-1, 1] maps to 1...n_patches. That many patches with the highest scores are kept; among equal
    scores the first. Scores are only ranked, and a number outside [-1, 1] is clipped.

    Args:
        env: an environment whose action space is MultiBinary(n_patches).

    Raises:
        ValueError: for another action space.
    """

    def __init__(self, env: gym.Env[Any, NDArray[Any]]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.n_patches = _n_patches(env)
        self.action_space = spaces.Box(-1.0, 1.0, (self.n_patches + 1,), np.float32)

    def action(self, action: NDArray[Any]) -> NDArray[np.int8]:
        """Patch mask (n_patches,) from scores and a number.

        Args:
            action: (n_patches + 1,), scores and then the number, in [-1, 1].

        Raises:
            ValueError: for another shape or NaN.
        """
        shape = (self.n_patches + 1,)
        try:
            values = np.asarray(action, dtype=np.float64)
        except Exception as error:  # a ragged list, no numbers, or whatever __array__ raises
            raise InputError(
                f"action must be numbers of shape {shape}, got {shown(action)}"
            ) from error
        if values.shape != shape:
            raise InputError(f"action must have shape {shape}, got {values.shape}")
        if np.isnan(values).any():
            raise InputError(f"action must not be NaN, got NaN at {np.isnan(values).argmax()}")
        share = (np.clip(values[-1], -1, 1) + 1) / 2
        return top_k_mask(values[:-1], round(1 + share * (self.n_patches - 1)))


class CountAction(
    gym.ActionWrapper[Any, np.int64, NDArray[np.int8]], gym.utils.RecordConstructorArgs
):
    """Pick only the number of patches, which are then sampled: for DQN and others with Discrete.

    ## Action space
    `Discrete(len(counts))`: action `i` keeps `counts[i]` patches, sampled again at each step.

    The wrapper has its own generator, seeded by `reset(seed=...)`: the same seed and actions give
    the same run. Resets without a seed continue its stream.

    Args:
        env: an environment whose action space is MultiBinary(n_patches).
        counts: numbers of patches to choose from, distinct and in 1...n_patches; by default eight
            evenly spaced ones up to n_patches, or all if there are fewer.
        sampling: `uniform`; `spread`: evenly over the image; or `attended`: with weights exp(z),
            where z is the standardised observation. `attended` needs an observation whose first
            n_patches numbers belong to the patches.

    Raises:
        ValueError: for another action space, counts out of range or repeated, an unknown sampling,
            `attended` with an observation that has no number per patch, or `spread` where the
            environment has no `grid` of patches and they do not form a square.
    """

    def __init__(
        self,
        env: gym.Env[Any, NDArray[Any]],
        counts: Sequence[int] | None = None,
        sampling: CountSamplingName = "uniform",
    ) -> None:
        super().__init__(env)
        self.n_patches = _n_patches(env)
        self.counts = _check_counts(counts, self.n_patches)
        check_choice((*SAMPLERS, "attended"), sampling=sampling)
        if sampling == "attended":
            shape = env.observation_space.shape
            if shape is None or len(shape) != 1 or shape[0] < self.n_patches:
                raise InputError(
                    f"the observation must have {counted(self.n_patches, 'number')} or more for "
                    f"sampling='attended', got {env.observation_space}"
                )
        self._grid: Grid | None = None
        if sampling == "spread":
            self._grid = grid_of_env(env, self.n_patches)
        # JSON has lists only, and a spec read from it must equal the one that was written.
        gym.utils.RecordConstructorArgs.__init__(
            self, counts=None if counts is None else list(self.counts), sampling=sampling
        )
        self.sampling = sampling
        self.action_space = spaces.Discrete(len(self.counts))
        # Made at reset, so that copies of an environment in several processes sample differently.
        self._rng: np.random.Generator | None = None
        self._patch_values: NDArray[np.float64] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and, with a seed, the generator of the patches."""
        observation, info = super().reset(seed=seed, options=options)
        if seed is not None:
            self.seed_sampling(seed)
        elif self._rng is None:
            self._rng = np.random.default_rng()
        self._store_values(observation)
        return observation, info

    def step(self, action: np.int64) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Train on `counts[action]` sampled patches."""
        results = super().step(action)
        self._store_values(results[0])
        return results

    def action(self, action: Any) -> NDArray[np.int8]:
        """Patch mask (n_patches,) with `counts[action]` patches, sampled again in each call.

        Args:
            action: an integer in 0...len(counts) - 1, as int, NumPy integer or array of one.

        Raises:
            ValueError: for anything else, before the first reset, or for `attended` with an
                observation that is not finite.
        """
        n_keep = self.counts[self._index(action)]
        if self._rng is None:
            raise InputError("expected a reset before this call, got none")
        values = self._patch_values
        scores = np.zeros(self.n_patches) if values is None else _standardise(values)
        sampler = SAMPLERS["uniform" if self.sampling == "attended" else self.sampling]
        return sampler(scores, n_keep, self._rng, self._grid)

    def action_masks(self) -> NDArray[np.bool_]:
        """The valid actions, (len(counts),): all of them. For MaskablePPO of sb3-contrib."""
        return np.ones(len(self.counts), dtype=np.bool_)

    def seed_sampling(self, seed: int) -> None:
        """Seed the generator of the patches without a reset."""
        self._rng = np.random.default_rng([seed, _SAMPLING_STREAM])

    def _store_values(self, observation: Any) -> None:
        if self.sampling == "attended":
            # A copy: the caller may change the observation after this call.
            self._patch_values = np.array(observation[: self.n_patches], dtype=np.float64)

    def _index(self, action: Any) -> int:
        expected = f"action must be an integer in [0, {len(self.counts) - 1}]"
        try:
            array = np.asarray(action)
        except Exception as error:  # a ragged list, or whatever an object's __array__ raises
            raise InputError(f"{expected}, got {shown(action)}") from error
        if array.shape not in ((), (1,)) or array.dtype.kind not in "iu":
            raise InputError(f"{expected}, got {shown(action)}")
        index = int(array.item())
        if not 0 <= index < len(self.counts):
            raise InputError(f"{expected}, got {index}")
        return index


class NumPyInfo(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Numbers of `info` as NumPy's scalars, which have a dtype: for TorchRL's readers of `info`.

    Args:
        env: any environment.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        observation, info = super().reset(seed=seed, options=options)
        return observation, _with_dtypes(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        *results, info = super().step(action)
        return *results, _with_dtypes(info)


def _with_dtypes(info: dict[str, Any]) -> dict[str, Any]:
    plain = (bool, int, float)
    return {
        name: np.asarray(value)[()] if isinstance(value, plain) else value
        for name, value in info.items()
    }


def _n_patches(env: gym.Env[Any, NDArray[Any]]) -> int:
    space = env.action_space
    if not isinstance(space, spaces.MultiBinary) or len(space.shape) != 1:
        raise InputError(f"the action space must be MultiBinary(n_patches), got {space}")
    return int(space.shape[0])


def _check_counts(counts: Sequence[int] | None, n_patches: int) -> tuple[int, ...]:
    if counts is None:
        n_counts = min(8, n_patches)
        return tuple(round(n_patches * step / n_counts) for step in range(1, n_counts + 1))
    try:
        chosen = tuple(counts)
    except TypeError as error:
        raise InputError(f"counts must be a sequence of integers, got {counts!r}") from error
    for index, count in enumerate(chosen):
        check_integer(1, n_patches, **{f"counts[{index}]": count})
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f"counts must be distinct numbers, at least one, got {chosen}")
    return tuple(int(count) for count in chosen)


def _standardise(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values with mean 0 and standard deviation 1; zeros where all are the same."""
    if not np.isfinite(values).all():
        raise InputError(f"the observation must be finite for sampling='attended', got {values}")
    centred = values - values.mean()
    scale = centred.std()
    # Rounding errors give equal values a small spread, which must not be scaled up.
    if scale <= 1e-12 * np.abs(values).max():
        return np.zeros_like(values)
    standardised: NDArray[np.float64] = centred / scale
    return standardised
