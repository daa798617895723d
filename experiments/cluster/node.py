"""What a node of a Ray cluster does for a command: it starts a process for each run."""

import os
import socket
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from vit_patch_env.checks import InputError, named
from vit_patch_env.experiments.process.workers import Worker, stop_workers
from vit_patch_env.experiments.run_folder.folder import lock_folder

SHARED = ".shared"
"""Name of the file by which a node recognises the command's folder."""

_FOLDER_SECONDS = 30.0
"""How long a new file may take until all nodes see it."""

_LOCK_SECONDS = 60.0
"""How long a run that was lost may take to release its folder."""


class Call(NamedTuple):
    """A function that a node calls in a process of its own.

    Attributes:
        target: the function, of a module.
        args: of the function.
        folder: of the command; other paths are in it, or relative to `cwd`.
        key: what the folder's file `SHARED` holds.
        run: the folder that the function writes to, which must not be in use.
        cwd: working directory of the command.
        uses_gpus: whether GPUs are reserved for it.
        version: of this package, where the command runs.
    """

    target: Callable[..., None]
    args: tuple[Any, ...]
    folder: Path
    key: str
    run: Path
    cwd: str
    uses_gpus: bool
    version: str


def package_version() -> str:
    """The version of this package."""
    return version("vit-patch-env")


def call_on_node(call: Call) -> int:
    """Call a function in a process of this node; the process's exit status.

    An interrupt, as Ray raises to cancel a task, stops the process by SIGTERM.

    Raises:
        InputError: if this node has another version, or does not see the command's folder.
    """
    check_version(call.version)
    _check_shared(call)
    lock_folder(call.run, "out", timeout=_LOCK_SECONDS).release()
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "") if call.uses_gpus else ""
    worker = Worker(_call, call.target, call.args, call.cwd, gpus)
    try:
        while worker.exitcode is None:
            wait([worker.sentinel], timeout=1.0)
    except KeyboardInterrupt:
        stop_workers([worker])
        raise
    return worker.exitcode


def check_version(expected: str) -> None:
    """Refuse to work for a command of another version."""
    if package_version() != expected:
        raise InputError(
            f"expected vit-patch-env {expected} on node {node_name()}, as where the command runs, "
            f"got {package_version()}"
        )


def node_name() -> str:
    """The name of this machine."""
    return socket.gethostname()


def _check_shared(call: Call) -> None:
    """Refuse a folder that is not the command's."""
    until = time.monotonic() + _FOLDER_SECONDS
    while (found := _key(call.folder)) != call.key:
        if time.monotonic() > until:
            got = "there is no such folder" if found is None else "that is another folder"
            raise InputError(
                f"{named('out')} must be on storage that all nodes share, got {call.folder}: on "
                f"node {node_name()} {got}"
            )
        time.sleep(0.5)


def _key(folder: Path) -> str | None:
    try:
        return (folder / SHARED).read_text(encoding="utf-8")
    except OSError:
        return None


def _call(target: Callable[..., None], args: tuple[Any, ...], cwd: str, gpus: str) -> None:
    """In the run's own process: the function with the command's working directory and GPUs."""
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus  # before CUDA is initialised
    if Path(cwd).is_dir():  # else the paths are absolute, or the function names what is missing
        os.chdir(cwd)
    target(*args)
