"""The layers of vectorised environments whose state a checkpoint holds."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper

from vit_patch_env.checks import InputError
from vit_patch_env.experiments.checkpoints.snapshot import restore, snapshot


class SavedLayers(gym.Wrapper[Any, Any, Any, Any]):
    """The outermost wrapper of an environment in another process, which checkpoints then hold.

    For `SubprocVecEnv([lambda: SavedLayers(env), ...])`.
    """

    def save_layers(self) -> list[Any]:
        """Snapshots of the wrappers and the environment, from the outside in."""
        return [snapshot(layer) for layer in _layers(self.env)]

    def load_layers(self, states: list[Any]) -> None:
        """Restore the wrappers and the environment.

        Raises:
            ValueError: if the snapshots are those of other layers.
        """
        for layer, state in zip(_layers(self.env), states, strict=True):
            restore(layer, state)


class _OtherProcess:
    """An environment in another process, as an object with a state.

    Args:
        vec_env: the environments.
        index: of this one.
    """

    def __init__(self, vec_env: SubprocVecEnv, index: int) -> None:
        self.vec_env = vec_env
        self.index = index

    def state_dict(self) -> dict[str, Any]:
        """Its layers and the info of its last reset."""
        (layers,) = self.vec_env.env_method("save_layers", indices=[self.index])
        return {"layers": layers, "reset_info": self.vec_env.reset_infos[self.index]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.vec_env.env_method("load_layers", state["layers"], indices=[self.index])
        infos = list(self.vec_env.reset_infos)
        infos[self.index] = state["reset_info"]
        self.vec_env.reset_infos = infos


def env_layers(vec_env: VecEnv) -> Iterator[Any]:
    """Yield everything that may hold state, from the outside in.

    First the vectorised environment and its wrappers, then each environment with its wrappers.

    Raises:
        ValueError: if the environments run in other processes without `SavedLayers`.
    """
    while isinstance(vec_env, VecEnvWrapper):
        yield vec_env
        vec_env = vec_env.venv
    if isinstance(vec_env, SubprocVecEnv) and vec_env.has_attr("save_layers"):
        yield from (_OtherProcess(vec_env, index) for index in range(vec_env.num_envs))
        return
    if not isinstance(vec_env, DummyVecEnv):
        raise InputError(
            "checkpoints need environments in this process (DummyVecEnv), or in the wrapper "
            f"SavedLayers in others (SubprocVecEnv), got {type(vec_env).__name__}"
        )
    yield vec_env
    for env in vec_env.envs:
        yield from _layers(env)


def _layers(env: gym.Env[Any, Any]) -> Iterator[Any]:
    """A wrapped environment's wrappers and the environment, from the outside in."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env
