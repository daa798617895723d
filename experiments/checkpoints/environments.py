"""The layers of vectorised environments whose state a checkpoint holds."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from vit_patch_env.checks import InputError


def env_layers(vec_env: VecEnv) -> Iterator[Any]:
    """Yield everything that may hold state, from the outside in.

    First the vectorised environment and its wrappers, then each environment with its wrappers.

    Raises:
        ValueError: if the environments run in other processes.
    """
    while isinstance(vec_env, VecEnvWrapper):
        yield vec_env
        vec_env = vec_env.venv
    if not isinstance(vec_env, DummyVecEnv):
        raise InputError(
            "checkpoints need environments in this process (DummyVecEnv), "
            f"got {type(vec_env).__name__}"
        )
    yield vec_env
    for env in vec_env.envs:
        while isinstance(env, gym.Wrapper):
            yield env
            env = env.env
        yield env
