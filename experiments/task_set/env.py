"""Trainings on several tasks as one environment, for agents that learn across them."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.checks import InputError
from vit_patch_env.config import EnvConfig
from vit_patch_env.observation import RUN_FEATURES
from vit_patch_env.patches.sampling import sample_spread

REFERENCE_GRID = (8, 8)
"""Rows and columns of the patches that agents see, whatever those of the task are."""


class TaskSetEnv(gym.Env[NDArray[np.float32], NDArray[np.int8]]):
    """Each episode is a training run on another task, with the same spaces for all of them.

    An action selects among 64 patches. A task with this grid trains on these patches; of another
    grid as large a share is kept, spread evenly over the image. The observation has no values of
    patches, but the features of the run. The reward is the task's over the logarithm of its number
    of classes, the loss of chance, so that tasks with more classes do not count more. Tasks come in
    random order, each once before any comes again.

    Args:
        configs: of the tasks' environments, with observation none+run.
        seed: of the order of the tasks and of their runs.
    """

    grid = REFERENCE_GRID

    def __init__(self, configs: Sequence[EnvConfig], seed: int) -> None:
        self._configs = list(configs)
        self._rng = np.random.default_rng(seed)
        self._waiting: list[int] = []
        self._place = 0
        self._envs: dict[int, ViTPatchSelectEnv] = {}
        n_patches = math.prod(REFERENCE_GRID)
        shape = (n_patches + RUN_FEATURES,)
        self.observation_space = spaces.Box(0, np.inf, shape, np.float32, seed=seed)
        self.action_space = spaces.MultiBinary(n_patches, seed=seed)

    @property
    def env(self) -> ViTPatchSelectEnv:
        """The environment of the current task; its images stay loaded for the next time."""
        if self._place not in self._envs:
            self._envs[self._place] = ViTPatchSelectEnv(**asdict(self._configs[self._place]))
        return self._envs[self._place]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start a run on the next task."""
        super().reset(seed=seed)
        if seed is not None:
            self._rng, self._waiting = np.random.default_rng(seed), []
        if not self._waiting:
            self._waiting = self._rng.permutation(len(self._configs)).tolist()
        self._place = self._waiting.pop()
        observation, info = self.env.reset(seed=int(self._rng.integers(2**31)), options=options)
        return self._shown(observation), info

    def step(
        self, action: NDArray[np.int8]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Train on the patches that the action selects, or on as large a share of another grid."""
        env = self.env
        if np.shape(action) != self.action_space.shape:
            raise InputError(
                f"action must have shape {self.action_space.shape}, got {np.shape(action)}"
            )
        if env.grid != self.grid:
            share = float(np.mean(np.asarray(action) != 0))
            n_keep = max(round(share * env.n_patches), 1)
            action = sample_spread(np.zeros(env.n_patches), n_keep, self._rng, env.grid)
        observation, reward, terminated, truncated, info = env.step(action)
        reward /= math.log(max(len(env.data.classes), 2))
        return self._shown(observation), reward, terminated, truncated, info

    def _shown(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """The run features, below nothing for the patches."""
        shown = np.zeros(self.observation_space.shape or (), np.float32)
        shown[-RUN_FEATURES:] = observation[-RUN_FEATURES:]
        return shown

    def state_dict(self) -> dict[str, Any]:
        """The current run and the tasks that are to come, as plain data and tensors."""
        return {
            "rng": self._rng.bit_generator.state,
            "waiting": list(self._waiting),
            "place": self._place,
            "n_tasks": len(self._configs),
            "env": self.env.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where `state_dict` was called.

        Raises:
            ValueError: for the state of another environment.
        """
        if state["n_tasks"] != len(self._configs):
            raise ValueError(f"expected {len(self._configs)} tasks, got {state['n_tasks']}")
        self._rng.bit_generator.state = state["rng"]
        self._waiting, self._place = list(state["waiting"]), state["place"]
        self.env.load_state_dict(state["env"])
