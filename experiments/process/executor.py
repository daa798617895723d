"""What trains runs: processes of this machine, or nodes of a cluster."""

from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from vit_patch_env.experiments.process.workers import Job, Worker


class RunFiles(NamedTuple):
    """Where the files of a run are.

    Attributes:
        folder: of the command.
        run: the folder in it that the run writes to.
        needed: the folders in it of runs that this one reads.
        storage: URL of what the folder is copied to and from; None if all that train see it.
    """

    folder: Path
    run: Path
    needed: tuple[Path, ...] = ()
    storage: str | None = None


class Executor(Protocol):
    """Trains runs, so many at a time."""

    @property
    def n_jobs(self) -> int:
        """Runs at a time; this may change."""

    @property
    def n_threads(self) -> int:
        """Threads of each run."""

    def start(self, files: RunFiles, target: Callable[..., None], *args: Any) -> Job:
        """Call a function of a module for a run, in a process of its own.

        Args:
            files: of the run.
            target: the function.
            args: of the function.
        """

    def wait(self, jobs: Sequence[Any], seconds: float) -> None:
        """Wait until one of these jobs has ended, at most so long."""

    def close(self) -> None:
        """Called when nothing more is started."""


class LocalExecutor:
    """Processes of this machine.

    Args:
        n_jobs: at a time; they share the threads that torch has here.
    """

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs
        self.n_threads = max(torch.get_num_threads() // n_jobs, 1)

    def start(self, files: RunFiles, target: Callable[..., None], *args: Any) -> Worker:
        """Start a process."""
        return Worker(target, *args)

    def wait(self, jobs: Sequence[Worker], seconds: float) -> None:
        """Wait until one of these has ended, at most so long."""
        wait([one.sentinel for one in jobs], timeout=seconds)

    def close(self) -> None:
        """Do nothing."""
