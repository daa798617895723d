"""What a node of a Ray cluster does for a command: it starts a process for each run."""

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from vit_patch_env.checks import InputError, named
from vit_patch_env.experiments.cluster.storage import Storage
from vit_patch_env.experiments.process.executor import RunFiles
from vit_patch_env.experiments.process.workers import Worker, stop_workers
from vit_patch_env.experiments.run_folder.folder import RESULT, lock_folder

SHARED = ".shared"
"""Name of the file by which a node recognises the command's folder."""

_FOLDER_SECONDS = 30.0
"""How long a new file may take until all nodes see it."""

_LOCK_SECONDS = 60.0
"""How long a run that was lost may take to release its folder."""

_SEND_SECONDS = 15.0
"""How often files are sent to storage while a run is trained."""


class Call(NamedTuple):
    """A function that a node calls in a process of its own.

    Attributes:
        target: the function, of a module.
        args: of the function.
        files: of the run; the paths are absolute.
        key: what the file `SHARED` in the command's folder holds.
        cwd: working directory of the command.
        uses_gpus: whether GPUs are reserved for it.
    """

    target: Callable[..., None]
    args: tuple[Any, ...]
    files: RunFiles
    key: str
    cwd: str
    uses_gpus: bool


def package_version() -> str:
    """The version of this package."""
    return version("vit-patch-env")


def call_on_node(call: Call) -> int:
    """Call a function in a process of this node; the process's exit status.

    Nothing is called for a run that is finished.

    An interrupt, as Ray raises to cancel a task, stops the process by SIGTERM.

    Raises:
        InputError: if this node cannot read or write the run's files.
    """
    run, url = call.files.run, call.files.storage
    if url is None:
        _check_shared(call)
    lock_folder(run, "out", timeout=_LOCK_SECONDS).release()
    storage = None if url is None else _fetched(call.files, url)
    if (run / RESULT).exists():  # finished on a node that was lost before it could say so
        return 0
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "") if call.uses_gpus else ""
    worker = Worker(_call, call.target, call.args, call.cwd, gpus)
    try:
        _wait(worker, run, storage)
    except KeyboardInterrupt:
        stop_workers([worker])
        raise
    finally:
        if storage is not None:
            _persistently(partial(storage.send, run), f"{url} to be written")
    assert worker.exitcode is not None
    return worker.exitcode


def _wait(worker: Worker, run: Path, storage: Storage | None) -> None:
    """Wait until a process has ended, and send what it writes meanwhile."""
    sent = time.monotonic()
    while worker.exitcode is None:
        wait([worker.sentinel], timeout=1.0)
        if storage is not None and time.monotonic() > sent + _SEND_SECONDS:
            with suppress(OSError):  # tried again, at the latest at the end
                storage.send(run)
            sent = time.monotonic()


def _fetched(files: RunFiles, url: str) -> Storage:
    """The storage, after what the run needs has been copied from it.

    Raises:
        InputError: if it cannot be read, or the command's folder cannot be written here.
    """
    folder, run, needed, _ = files
    storage = Storage(url, folder)

    def fetch() -> None:
        for part in (folder, *needed, run):
            storage.fetch(part)

    _persistently(fetch, f"{url} to be copied to {folder} on node {node_name()}")
    return storage


def _persistently(function: Callable[[], None], expected: str) -> None:
    """Call a function that may fail for a moment, as networks do.

    Raises:
        InputError: if it fails three times.
    """
    for seconds in (1.0, 10.0, None):
        try:
            function()
        except OSError as error:
            if seconds is None:
                raise InputError(f"expected {expected}, got: {error}") from error
            time.sleep(seconds)
        else:
            return


def node_name() -> str:
    """The name of this machine."""
    return socket.gethostname()


def _check_shared(call: Call) -> None:
    """Refuse a folder that is not the command's."""
    until = time.monotonic() + _FOLDER_SECONDS
    while (found := _key(call.files.folder)) != call.key:
        if time.monotonic() > until:
            got = "there is no such folder" if found is None else "that is another folder"
            raise InputError(
                f"{named('out')} must be on storage that all nodes share, got {call.files.folder}: "
                f"on node {node_name()} {got}; or add {named('storage')}"
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
