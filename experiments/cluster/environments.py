"""Environments on the nodes of a Ray cluster, as one vectorised environment."""

import multiprocessing
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper
from stable_baselines3.common.vec_env.subproc_vec_env import _worker

from vit_patch_env.checks import InputError
from vit_patch_env.experiments.cluster.executor import RayExecutor, first_line

MakeEnv = Callable[[], gym.Env[Any, Any]]


class LostEnvironmentError(InputError):
    """An environment whose node was lost."""


class EnvironmentServer:
    """An environment that another process asks, as `SubprocVecEnv` does: an actor of Ray.

    Args:
        make: makes the environment.
    """

    def __init__(self, make: MakeEnv) -> None:
        self._error: Exception | None = None
        self._pipe, theirs = multiprocessing.Pipe()
        Thread(target=self._serve, args=(theirs, make), daemon=True).start()

    def ask(self, question: tuple[str, Any]) -> Any:
        """The answer to a message of `SubprocVecEnv`."""
        self._pipe.send(question)
        try:
            return self._pipe.recv()
        except EOFError:
            assert self._error is not None
            raise self._error from None

    def _serve(self, pipe: Any, make: MakeEnv) -> None:
        """Stable-Baselines3's loop of an environment's process, in a thread."""
        try:
            _worker(pipe, multiprocessing.Pipe()[0], CloudpickleWrapper(make))  # it closes that
        except Exception as error:
            self._error = error
        finally:
            pipe.close()


class _Remote:
    """An `EnvironmentServer`, as a pipe to its process.

    Args:
        ray: the module, connected.
        server: Ray's handle.
    """

    def __init__(self, ray: Any, server: Any) -> None:
        self._ray = ray
        self._server = server
        self._answers: list[Any] = []

    def send(self, question: tuple[str, Any]) -> None:
        """Ask the environment."""
        self._answers.append(self._server.ask.remote(question))

    def recv(self) -> Any:
        """The answer to the first question that was not answered.

        Raises:
            LostEnvironmentError: if its node was lost.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(self._answers.pop(0))
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayError as error:
            raise LostEnvironmentError(
                f"an environment was lost with its node: {first_line(error)}"
            ) from error

    def close(self) -> None:
        """End the environment's process."""
        self._ray.kill(self._server)


class RayVecEnv(SubprocVecEnv):
    """A `SubprocVecEnv` whose environments are actors on the nodes of a Ray cluster.

    Args:
        executor: that the actors are on.
        makers: make the environments; each is pickled.

    Attributes:
        remotes: the environments, as pipes.
    """

    def __init__(self, executor: RayExecutor, makers: Sequence[MakeEnv]) -> None:
        self.waiting = self.closed = False
        servers = [executor.actor(EnvironmentServer, make) for make in makers]
        self.remotes: Any = [_Remote(executor.ray, one) for one in servers]
        self.remotes[0].send(("get_spaces", None))
        observations, actions = self.remotes[0].recv()
        VecEnv.__init__(self, len(makers), observations, actions)

    def close(self) -> None:
        """End the environments' processes, whatever they do."""
        for remote in self.remotes if not self.closed else ():
            remote.close()
        self.closed = True
