"""A split's batches beneath the wrappers of a vectorised environment."""

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv


class SplitVecEnv(VecEnv):
    """One environment in every place of a vectorised one.

    Args:
        env: a `SplitEnv`, or wrappers around one.
        n_envs: number of places.
        index: of the place whose actions count.
    """

    def __init__(self, env: gym.Env[Any, Any], n_envs: int, index: int) -> None:
        self.env = env
        self.index = index
        super().__init__(n_envs, env.observation_space, env.action_space)

    def reset(self) -> Any:
        """The first observation, in every place."""
        observation, _ = self.env.reset(seed=0)
        return self._everywhere(observation)

    def step_async(self, actions: Any) -> None:
        """Store the action."""
        self._action = actions[self.index]

    def step_wait(self) -> Any:
        """Results of the step, in every place."""
        observation, reward, _, _, info = self.env.step(self._action)
        n = self.num_envs
        rewards, dones = np.full(n, reward, dtype=np.float32), np.zeros(n, dtype=np.bool_)
        return self._everywhere(observation), rewards, dones, [dict(info) for _ in range(n)]

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the environment, for every place."""
        return [self.env.get_wrapper_attr(attr_name) for _ in self._places(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the environment."""
        self.env.set_wrapper_attr(attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """The result of a method of the environment, for every place."""
        result = self.env.get_wrapper_attr(method_name)(*method_args, **method_kwargs)
        return [result for _ in self._places(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Nowhere."""
        return [False for _ in self._places(indices)]

    def _places(self, indices: Any) -> Iterable[int]:
        return self._get_indices(indices)

    def _everywhere(self, observation: Any) -> Any:
        """An observation in every place, in the space's types, as vectorised environments do."""
        return _stacked(self.observation_space, [observation] * self.num_envs)


def _stacked(space: Any, observations: Sequence[Any]) -> Any:
    if isinstance(space, gym.spaces.Dict):
        return {key: _stacked(one, [o[key] for o in observations]) for key, one in space.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(
            _stacked(one, [o[index] for o in observations]) for index, one in enumerate(space)
        )
    return np.stack([np.asarray(one, dtype=space.dtype) for one in observations])
