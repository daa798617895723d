"""Processes that work for a command, and end with it."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, Protocol

from vit_patch_env.experiments.process.forkserver import fork_context
from vit_patch_env.experiments.process.signals import STOP_SIGNALS

_UNKNOWN = 255
"""What multiprocessing takes for the exit status of a process whose server was killed."""


_SERVER_ENDS = 10.0
"""Seconds that the system may take to end a process that was killed."""


class Job(Protocol):
    """A process that works for this one, here or elsewhere."""

    @property
    def exitcode(self) -> int | None:
        """Its exit status, negative for a signal; None until it has ended."""

    @property
    def problem(self) -> str:
        """Why it could not work at all; empty if that is not so."""

    def join(self) -> None:
        """Wait until it has ended."""

    def send_signal(self, number: int) -> None:
        """Stop it (SIGTERM) or kill it (SIGKILL), unless it has ended."""


class Worker:
    """A process that works for this one. It starts at once.

    Multiprocessing's server knows whether it lives. A worker outlives the server, which may be
    killed; then this is known from a pipe that ends with the worker.

    Args:
        target: what it calls; a function of a module.
        args: of the function.

    Attributes:
        problem: empty, as a process that is started here can work.
    """

    problem = ""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self._reports, reports = multiprocessing.Pipe(duplex=False)
        self._process = _started(reports, target, args)
        reports.close()
        self._reported = _UNKNOWN
        self._ended = False

    @property
    def sentinel(self) -> Any:
        """Something to `multiprocessing.connection.wait` for; then see `exitcode`."""
        return self._process.sentinel if self._process.exitcode is None else self._reports

    @property
    def exitcode(self) -> int | None:
        """Its exit status, negative for a signal, 255 if that is not known; None while it lives."""
        known = self._process.exitcode
        if known != _UNKNOWN:
            return known
        while not self._ended and self._reports.poll():
            try:
                self._reported = self._reports.recv()
            except (EOFError, OSError):
                self._ended = True
        return self._reported if self._ended else None

    def join(self) -> None:
        """Wait until it has ended."""
        while self.exitcode is None:
            wait([self.sentinel])

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.exitcode is None and self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def _started(*args: Any) -> ForkServerProcess:
    """A process that works; its server is replaced if it has been killed, even just now."""
    until = time.monotonic() + _SERVER_ENDS
    while True:
        process = fork_context().Process(target=_work, args=args)
        try:
            process.start()
        except (EOFError, ConnectionError):  # the server is ending, which is not known yet
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return process


def _work(reports: Connection, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Call a function in this process, which was started for it, and report how it ended."""
    exitcode = 1  # of a process that an exception ends
    try:
        target(*args)
        exitcode = 0
    except SystemExit as end:
        exitcode = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed
                stream.flush()
        with suppress(OSError):  # the other process has ended
            reports.send(exitcode)


def become_worker() -> None:
    """Prepare this process, which was started for it, to work for another.

    Ctrl-C is for the other process, which then sends SIGTERM. When that process has ended, however
    it did, SIGTERM is sent here.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def become_server() -> None:
    """Prepare this process to be asked over a pipe by another, at whose end the pipe is closed.

    Signals of the process group are for the other process, which may still ask for something.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def stop_workers(workers: Iterable[Job]) -> None:
    """Send SIGTERM to workers, and wait until they have ended."""
    started = list(workers)
    for one in started:
        one.send_signal(signal.SIGTERM)
    for one in started:
        one.join()


def kill_workers(workers: Iterable[Job]) -> None:
    """End workers at once."""
    for one in list(workers):
        one.send_signal(signal.SIGKILL)


def _end_with_parent() -> None:
    """Stop this process when its parent has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
