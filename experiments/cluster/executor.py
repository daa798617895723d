"""Runs as tasks of a Ray cluster, which Ray starts again elsewhere when a node is lost."""

import signal
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from vit_patch_env.checks import ArgumentError, InputError, named
from vit_patch_env.experiments.cluster.connection import Connection
from vit_patch_env.experiments.cluster.node import SHARED, Call, call_on_node, package_version
from vit_patch_env.experiments.options.commands import ClusterOptions
from vit_patch_env.experiments.process.executor import Executor, LocalExecutor
from vit_patch_env.experiments.process.messages import error_message, say
from vit_patch_env.system.files import replacing

N_LOSSES = 5
"""How often a run may lose its node."""

_CANCELLED = 128 + signal.SIGTERM
"""Exit status of a run that was stopped."""


class Resources:
    """What Ray reserves for each run.

    Args:
        cluster: that the runs are on.
        options: of the command.
        device: that the runs train on, as the user gave it.

    Attributes:
        n_cpus: for each run.
        n_gpus: for each run.

    Raises:
        ArgumentError: if no node has as much.
    """

    def __init__(self, cluster: Connection, options: ClusterOptions, device: str) -> None:
        self._cluster = cluster
        nodes = cluster.nodes().values()
        self.n_cpus = options.cpus_per_run
        has_gpus = any(node["Resources"].get("GPU") for node in nodes)
        usual = 1.0 if has_gpus and device != "cpu" else 0.0
        self.n_gpus = usual if options.gpus_per_run is None else options.gpus_per_run
        if device != "auto" and bool(self.n_gpus) != device.startswith("cuda"):
            raise ArgumentError("gpus_per_run", f"must fit --device {device}, got {self.n_gpus:g}")
        for name, resource, wanted in (
            ("cpus_per_run", "CPU", self.n_cpus),
            ("gpus_per_run", "GPU", self.n_gpus),
        ):
            most = max((self._has(node, resource) for node in nodes), default=0)
            if wanted > most:
                raise ArgumentError(
                    name, f"must be at most {most:g}, what one node has of them, got {wanted:g}"
                )

    @property
    def n_at_once(self) -> int:
        """Runs that the cluster has room for if nothing else is on it; at least 1."""
        return max(sum(self._room(node) for node in self._cluster.nodes().values()), 1)

    def _room(self, node: dict[str, Any]) -> int:
        of_cpus = int(self._has(node, "CPU") // self.n_cpus)
        return min(of_cpus, int(self._has(node, "GPU") / self.n_gpus)) if self.n_gpus else of_cpus

    @staticmethod
    def _has(node: dict[str, Any], resource: str) -> float:
        return float(node["Resources"].get(resource, 0.0))


class RayExecutor:
    """Nodes of a Ray cluster.

    Each run is a task, which starts a process on its node. A task whose node is lost is started on
    another one, and resumes the run from its checkpoint.

    Args:
        options: of the command, with `ray`.
        device: that the runs train on, as the user gave it.
        n_jobs: runs at a time; None for as many as the cluster has room for.

    Raises:
        ArgumentError: if there is no such cluster, or none of its nodes has what a run needs.
        InputError: without Ray.
    """

    def __init__(self, options: ClusterOptions, device: str, n_jobs: int | None) -> None:
        assert options.ray is not None
        self._cluster = Connection(options.ray)
        try:
            self._resources = Resources(self._cluster, options, device)
        except ArgumentError:
            self._cluster.close()
            raise
        self._given_jobs = n_jobs
        self._key = uuid.uuid4().hex
        self._marked: list[Path] = []
        self._task = self._cluster.ray.remote(
            num_cpus=self._resources.n_cpus,
            num_gpus=self._resources.n_gpus,
            max_retries=N_LOSSES,
            max_calls=0,  # Ray's process is kept for the next run, with what it has imported
        )(call_on_node)

    @property
    def n_jobs(self) -> int:
        """As many as were given, or as the cluster has room for now."""
        return self._given_jobs or self._resources.n_at_once

    @property
    def n_threads(self) -> int:
        """The cores reserved for a run."""
        return self._resources.n_cpus

    def start(self, folder: Path, run: Path, target: Callable[..., None], *args: Any) -> "RayJob":
        """Submit a run."""
        folder = folder.absolute()
        if folder not in self._marked:
            with replacing(folder / SHARED) as partial:
                partial.write_text(self._key, encoding="utf-8")
            self._marked.append(folder)
        call = Call(
            target, args, folder, self._key, run.absolute(), str(Path.cwd()),
            bool(self._resources.n_gpus), package_version(),
        )  # fmt: skip
        return RayJob(self._cluster.ray, self._task.remote(call))

    def wait(self, jobs: Sequence["RayJob"], seconds: float) -> None:
        """Wait until one of these has ended, at most so long, and say which nodes were lost."""
        self._cluster.ray.wait([one.task for one in jobs], timeout=seconds)
        for node in self._cluster.lost():
            say(f"node {node} was lost; its runs go on elsewhere from their last checkpoints")

    def close(self) -> None:
        """Leave the cluster."""
        for folder in self._marked:
            with suppress(OSError):
                (folder / SHARED).unlink()
        self._cluster.close()


class RayJob:
    """A run that was submitted.

    Args:
        ray: the module, connected.
        task: Ray's reference to what the task returns.

    Attributes:
        task: Ray's reference.
        problem: why it could not be trained at all; empty if that is not so.
    """

    def __init__(self, ray: ModuleType, task: Any) -> None:
        self._ray = ray
        self.task = task
        self.problem = ""
        self._exitcode: int | None = None

    @property
    def exitcode(self) -> int | None:
        """Its exit status; None until it has ended."""
        if self._exitcode is None and self._ray.wait([self.task], timeout=0)[0]:
            self._exitcode = self._ended()
        return self._exitcode

    def _ended(self) -> int:
        errors = self._ray.exceptions
        try:
            return int(self._ray.get(self.task))
        except errors.TaskCancelledError:
            return _CANCELLED
        except errors.RayTaskError as error:
            cause = error.cause
            self.problem = error_message(cause) if isinstance(cause, InputError) else repr(cause)
        except errors.RayError as error:  # such as that of a process that was killed too often
            first = next(iter(str(error).splitlines()), type(error).__name__)
            self.problem = f"Ray gave it up: {first}"
        return 1

    def join(self) -> None:
        """Wait until it has ended."""
        self._ray.wait([self.task])

    def send_signal(self, number: int) -> None:
        """Stop it (SIGTERM) or kill it (SIGKILL), unless it has ended."""
        if self.exitcode is None:
            self._ray.cancel(self.task, force=number == signal.SIGKILL)


def make_executor(options: Any, device: str) -> Executor:
    """What trains the runs of a command.

    Args:
        options: of the command, which has `jobs` and those of a cluster.
        device: that the runs train on, as the user gave it.

    Raises:
        ValueError: as `RayExecutor`, or for options of a cluster without one.
    """
    if options.ray is not None:
        given = "jobs" in options.given or options.jobs != type(options).jobs
        return RayExecutor(options, device, options.jobs if given else None)
    for name in ("cpus_per_run", "gpus_per_run"):
        value = getattr(options, name)
        if value != getattr(ClusterOptions, name):
            raise ArgumentError(name, f"is for {named('ray')}, got {value:g}")
    return LocalExecutor(options.jobs)
