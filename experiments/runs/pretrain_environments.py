"""The environments that an agent is pretrained on: here, in processes, or on a cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.factory import ACTIONS
from vit_patch_env.experiments.checkpoints.environments import SavedLayers
from vit_patch_env.experiments.cluster.environments import RayVecEnv
from vit_patch_env.experiments.cluster.executor import RayExecutor
from vit_patch_env.experiments.options.commands import ActionsName
from vit_patch_env.experiments.process.forkserver import fork_context
from vit_patch_env.experiments.process.workers import become_server
from vit_patch_env.experiments.runs.environment import make_env
from vit_patch_env.models.kernels.build import enable

Made = EnvConfig | Callable[[], Any]
"""Arguments of an environment, or a function that makes it."""


@contextmanager
def environments(
    made: Sequence[Made],
    actions: ActionsName,
    compiled: bool | None,
    executor: RayExecutor | None,
) -> Iterator[VecEnv]:
    """The environments as a vectorised one; no process of theirs outlives the block.

    One is in this process, several are in processes of their own.

    Args:
        made: what they are made of.
        actions: that they take.
        compiled: whether attention is that of the compiled kernel; None where there is none.
        executor: a cluster that they are on, also a single one; None for this machine.
    """
    if executor is not None:
        of_each = actions, compiled, executor.n_threads
        on_nodes = [partial(_make_env_of_actor, one, *of_each) for one in made]
        with closing(RayVecEnv(executor, on_nodes)) as vec_env:
            yield vec_env
        return
    if len(made) == 1:
        with closing(DummyVecEnv([partial(_make_env, made[0], actions)])) as single:
            yield single
        return
    fork_context()  # preloads the libraries in the processes
    makers: list[Callable[[], gym.Env[Any, Any]]] = [
        partial(_make_env_of_process, one, actions, compiled) for one in made
    ]
    processes = SubprocVecEnv(makers, start_method="forkserver")
    try:
        yield processes
        processes.close()
    finally:
        for process in processes.processes:  # which have ended, unless there was an error
            process.kill()


def _make_env(made: Made, actions: ActionsName, n_threads: int = 1) -> Any:
    """An environment in this process, of arguments or of a function that makes it."""
    torch.set_num_threads(n_threads)
    env: Any = make_env(made) if isinstance(made, EnvConfig) else made()
    return Monitor(ACTIONS[actions](env))


def _make_env_of_process(options: Any, actions: ActionsName, compiled: bool | None) -> Any:
    """An environment in a process of its own, which this is."""
    become_server()
    enable(compiled is not False)
    return SavedLayers(_make_env(options, actions))


def _make_env_of_actor(
    options: Any, actions: ActionsName, compiled: bool | None, n_threads: int
) -> Any:
    """An environment in a process of Ray, which this is."""
    enable(compiled is not False)
    return SavedLayers(_make_env(options, actions, n_threads))
