"""A split's batches beneath the wrappers of a vectorised environment."""

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from vit_patch_env.copied_wrappers import Copies


class SplitVecEnv(VecEnv):
    """A split that is shown in every place of a vectorised environment.

    Args:
        shown: with methods reset(), step(action), get(name), set(name, value) and
            call(name, *args, **kwargs).
        n_envs: number of places.
        index: of the place whose actions count.
    """

    def __init__(self, shown: Any, n_envs: int, index: int) -> None:
        self.shown = shown
        self.index = index
        super().__init__(n_envs, shown.get("observation_space"), shown.get("action_space"))

    def reset(self) -> Any:
        """The first observation, in every place."""
        return self._everywhere(self.shown.reset())

    def step_async(self, actions: Any) -> None:
        """Store the action."""
        self._action = actions[self.index]

    def step_wait(self) -> Any:
        """Results of the step, in every place."""
        observation, reward, _, _, info = self.shown.step(self._action)
        n = self.num_envs
        rewards, dones = np.full(n, reward, dtype=np.float32), np.zeros(n, dtype=np.bool_)
        return self._everywhere(observation), rewards, dones, [dict(info) for _ in range(n)]

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the environment, for every place."""
        return [self.shown.get(attr_name) for _ in self._places(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the environment."""
        self.shown.set(attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """The result of a method of the environment, for every place."""
        result = self.shown.call(method_name, *method_args, **method_kwargs)
        return [result for _ in self._places(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Nowhere."""
        return [False for _ in self._places(indices)]

    def _places(self, indices: Any) -> Iterable[int]:
        return self._get_indices(indices)

    def _everywhere(self, observation: Any) -> Any:
        """An observation in every place, in the space's types, as vectorised environments do."""
        return _stacked(self.observation_space, [observation] * self.num_envs)


class SplitPlace:
    """One place of a vectorised environment's copied wrappers, with a split beneath them.

    Args:
        layers: of the vectorised environment, from the outside in.
        shown: as for `SplitVecEnv`.
        index: of the place.
    """

    def __init__(self, layers: Sequence[Any], shown: Any, index: int) -> None:
        self.index = index
        self._n_envs = layers[0].num_envs
        self._copies = Copies(layers, SplitVecEnv(shown, self._n_envs, index))
        self._vec_env: VecEnv = self._copies.outermost

    def reset(self) -> Any:
        """The first observation."""
        with self._copies.running():
            return self._own(self._vec_env.reset())

    def step(self, action: Any) -> tuple[Any, ...]:
        """The next observation, and what else a step gives."""
        with self._copies.running():
            observations, *results = self._vec_env.step(np.stack([action] * self._n_envs))
            return self._own(observations), *results

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The result of a method of the environment."""
        with self._copies.running():
            return self._vec_env.env_method(name, *args, indices=[self.index], **kwargs)[0]

    def close(self) -> None:
        """Restore what the copies share with the wrappers."""
        self._copies.close()

    def _own(self, observations: Any) -> Any:
        if isinstance(observations, dict):
            return {key: value[self.index] for key, value in observations.items()}
        if isinstance(observations, tuple):
            return tuple(value[self.index] for value in observations)
        return observations[self.index]


def _stacked(space: Any, observations: Sequence[Any]) -> Any:
    if isinstance(space, gym.spaces.Dict):
        return {key: _stacked(one, [o[key] for o in observations]) for key, one in space.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(
            _stacked(one, [o[index] for o in observations]) for index, one in enumerate(space)
        )
    return np.stack([np.asarray(one, dtype=space.dtype) for one in observations])
