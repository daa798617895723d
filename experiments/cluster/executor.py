"""Runs as tasks of a Ray cluster, which Ray starts again elsewhere when a node is lost."""

import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from vit_patch_env.checks import ArgumentError, InputError, named
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.cluster.connection import Connection
from vit_patch_env.experiments.cluster.node import (
    SHARED,
    Call,
    call_on_node,
    package_version,
)
from vit_patch_env.experiments.cluster.storage import Storage
from vit_patch_env.experiments.options.commands import (
    ClusterOptions,
    CompareOptions,
    TuneOptions,
)
from vit_patch_env.experiments.process.executor import Executor, LocalExecutor, RunFiles
from vit_patch_env.experiments.process.messages import error_message, say
from vit_patch_env.experiments.run_folder.folder import CHECKPOINTS
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
        if device.startswith("cuda:"):
            raise ArgumentError(
                "device", f"must be auto, cuda or cpu for {named('ray')}, got {device}"
            )
        takes_gpus = device in ("auto", "cuda") and any(self._has(node, "GPU") for node in nodes)
        given = options.gpus_per_run
        self.n_gpus = float(takes_gpus) if given is None else given
        if given is not None and device != "auto" and bool(given) != (device == "cuda"):
            raise ArgumentError(
                "gpus_per_run", f"must fit {named('device')} {device}, got {given:g}"
            )
        if self.n_gpus * 10_000 % 1 or (self.n_gpus > 1 and self.n_gpus % 1):
            raise ArgumentError(
                "gpus_per_run", f"must be an integer, or at most 1 with 4 digits, got {given:g}"
            )
        for name, resource, wanted in (
            ("cpus_per_run", "CPU", self.n_cpus),
            ("gpus_per_run", "GPU", self.n_gpus),
        ):
            most = max((self._has(node, resource) for node in nodes), default=0)
            if wanted > most:
                raise ArgumentError(
                    name, f"must be at most {most:g}, what one node has of them, got {wanted:g}"
                )
        if not self.room:
            raise ArgumentError(
                "gpus_per_run",
                f"must fit on a node beside {named('cpus_per_run')} {self.n_cpus}, got "
                f"{self.n_gpus:g}",
            )

    @property
    def room(self) -> int:
        """Runs that the cluster has room for if nothing else is on it."""
        return sum(self.room_on(node) for node in self._cluster.nodes().values())

    def room_on(self, node: dict[str, Any]) -> int:
        """Runs that a node has room for."""
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
        InputError: without Ray, or if a node has another version of this package.
    """

    def __init__(self, options: ClusterOptions, device: str, n_jobs: int | None) -> None:
        assert options.ray is not None
        self._cluster = Connection(options.ray)
        try:
            self._resources = Resources(self._cluster, options, device)
            self._check_versions()
        except InputError:
            self._cluster.close()
            raise
        self._given_jobs = n_jobs
        self._key = uuid.uuid4().hex
        self._folders: dict[Path, Storage | None] = {}
        self._of_run = {"num_cpus": self._resources.n_cpus, "num_gpus": self._resources.n_gpus}

    @property
    def ray(self) -> ModuleType:
        """The module, connected."""
        return self._cluster.ray

    @property
    def n_jobs(self) -> int:
        """As many as were given, or as the cluster has room for now."""
        return self._given_jobs or max(self.room, 1)

    @property
    def room(self) -> int:
        """Runs that the cluster has room for now, if nothing else is on it."""
        return self._resources.room

    @property
    def n_threads(self) -> int:
        """The cores reserved for a run."""
        return self._resources.n_cpus

    def start(self, files: RunFiles, target: Callable[..., None], *args: Any) -> "RayJob":
        """Submit a run.

        Raises:
            InputError: if storage cannot be written.
        """
        folder, run = files.folder.absolute(), files.run.absolute()
        needed = tuple(one.absolute() for one in files.needed)
        storage = self._shared(folder, files.storage)
        if storage is not None:
            with _naming(storage.url):
                storage.send(folder)
                for part in (*needed, run):
                    if not storage.has(part) or _newest(part) > storage.newest_checkpoint(part):
                        storage.send(part)
        url = None if storage is None else storage.url
        call = Call(
            target, args, RunFiles(folder, run, needed, url), self._key, str(Path.cwd()),
            bool(self._resources.n_gpus),
        )  # fmt: skip
        return self._submitted(partial(_fetch, storage, run), N_LOSSES, call_on_node, call)

    def submit(self, target: Callable[..., int], *args: Any) -> "RayJob":
        """Call a function in a process of Ray, and again elsewhere whenever its node is lost.

        Args:
            target: the function, which returns an exit status.
            args: of the function.
        """
        return self._submitted(lambda: None, -1, target, *args)

    def actor_here(self, kind: type[Any], *args: Any) -> Any:
        """Ray's handle of an object in a process of its own on this machine."""
        here = self.ray.get_runtime_context().get_node_id()
        return self._remote_on(here, kind).remote(*args)

    def actor(self, kind: type[Any], *args: Any) -> Any:
        """Ray's handle of an object in a process of its own, with what a run has."""
        return self.ray.remote(**self._of_run)(kind).remote(*args)

    def _remote_on(self, node: str, target: Any) -> Any:
        """A function or a class that Ray calls on a node, also if that is busy."""
        where = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        return self.ray.remote(num_cpus=0, scheduling_strategy=where(node, soft=False))(target)

    def _check_versions(self) -> None:
        """Refuse a cluster in which a node has another version, or none, of this package."""
        nodes = self._cluster.nodes()
        version = package_version()
        found = {
            nodes[one]["NodeManagerHostname"]: self._remote_on(one, package_version).remote()
            for one, node in nodes.items()
            if self._resources.room_on(node)
        }
        for name, answer in found.items():
            try:
                got = self.ray.get(answer)
            except self.ray.exceptions.RayError as error:
                got = first_line(getattr(error, "cause", None) or error)
            if got != version:
                raise InputError(
                    f"expected vit-patch-env {version} on node {name}, as where the command runs, "
                    f"got {got}"
                )

    def _submitted(
        self, fetch: Callable[[], None], n_losses: int, target: Callable[..., int], *args: Any
    ) -> "RayJob":
        # Ray's process is kept for the next run, with what it has imported.
        kept = {"max_retries": n_losses, "max_calls": 0}
        task = self.ray.remote(**self._of_run, **kept)(target)
        return RayJob(self.ray, task.remote(*args), fetch)

    def _shared(self, folder: Path, url: str | None) -> Storage | None:
        """The storage for a command's folder, or None after the folder was marked for nodes."""
        if folder not in self._folders:
            if url is None:
                with replacing(folder / SHARED) as unfinished:
                    unfinished.write_text(self._key, encoding="utf-8")
                self._folders[folder] = None
            else:
                self._folders[folder] = Storage(url, folder)
        return self._folders[folder]

    def wait(self, jobs: Sequence["RayJob"], seconds: float) -> None:
        """Wait until one of these has ended, at most so long, and say which nodes were lost."""
        self.ray.wait([one.task for one in jobs], timeout=seconds)
        for node in self._cluster.lost():
            say(f"node {node} was lost; its runs resume on other nodes")

    def close(self) -> None:
        """Leave the cluster."""
        for folder, storage in self._folders.items():
            if storage is None:
                (folder / SHARED).unlink(missing_ok=True)
        self._cluster.close()


class RayJob:
    """A run that was submitted.

    Args:
        ray: the module, connected.
        task: Ray's reference to what the task returns.
        fetch: called when it has ended, for its files.

    Attributes:
        task: Ray's reference.
        problem: why it could not be trained at all; empty if that is not so.
    """

    def __init__(self, ray: ModuleType, task: Any, fetch: Callable[[], None]) -> None:
        self._ray = ray
        self._fetch = fetch
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
            exitcode = int(self._ray.get(self.task))
            self._fetch()
        except InputError as error:
            self.problem = error_message(error)
        except errors.TaskCancelledError:
            return _CANCELLED
        except errors.RayTaskError as error:
            cause = error.cause
            known = isinstance(cause, InputError | OSError)
            self.problem = error_message(cause) if known else repr(cause)
        except errors.RayError as error:  # such as that of a process that was killed too often
            self.problem = f"Ray gave it up: {first_line(error)}"
        else:
            return exitcode
        return 1

    def join(self) -> None:
        """Wait until it has ended."""
        self._ray.wait([self.task])

    def send_signal(self, number: int) -> None:
        """Stop it (SIGTERM) or kill it (SIGKILL), unless it has ended."""
        if self.exitcode is None:
            self._ray.cancel(self.task, force=number == signal.SIGKILL)


def ray_executor(options: ClusterOptions, device: str, n_jobs: int | None) -> RayExecutor | None:
    """As `make_executor`, None for processes of this machine.

    Args:
        options: of the command, which has those of a cluster.
        device: that the runs train on, as the user gave it.
        n_jobs: runs at a time; None for as many as the cluster has room for.
    """
    if options.ray is not None:
        return RayExecutor(options, device, n_jobs)
    for name in ("cpus_per_run", "gpus_per_run", "storage"):
        value = getattr(options, name, None)
        if value != getattr(ClusterOptions, name, None):
            raise ArgumentError(name, f"is for {named('ray')}, got {value}")
    return None


def first_line(error: Exception) -> str:
    """The first line of an error of Ray, which goes on for a page."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _newest(run: Path) -> str:
    """The name of the newest checkpoint that is here of a run; empty if there is none."""
    return next((one.name for one in CheckpointFolder(run / CHECKPOINTS).files), "")


def _fetch(storage: Storage | None, run: Path) -> None:
    """Copy a run from storage, if there is one.

    Raises:
        InputError: if it cannot be read.
    """
    if storage is not None:
        with _naming(storage.url):
            storage.fetch(run)


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Raise errors of storage as an `InputError` that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"expected storage that can be used, got {url}: {error}") from error


def given_jobs(options: CompareOptions | TuneOptions) -> int | None:
    """Runs at a time, if the user says so: a cluster has room for other numbers than 1."""
    is_given = "jobs" in options.given or options.jobs != type(options).jobs
    return options.jobs if is_given else None


def make_executor(options: CompareOptions, device: str) -> Executor:
    """What trains the runs of a command.

    Args:
        options: of the command, which has `jobs` and those of a cluster.
        device: that the runs train on, as the user gave it.

    Raises:
        ValueError: as `RayExecutor`, or for options of a cluster without one.
    """
    on_cluster = ray_executor(options, device, given_jobs(options))
    return LocalExecutor(options.jobs) if on_cluster is None else on_cluster
