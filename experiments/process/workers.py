"""Processes that work for a command, and end with it."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterable
from multiprocessing.process import BaseProcess

from vit_patch_env.experiments.process.signals import STOP_SIGNALS


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


def stop_workers(workers: Iterable[BaseProcess]) -> None:
    """Send SIGTERM to workers, and wait until they have ended."""
    started = [one for one in workers if one.pid is not None]
    for one in started:
        one.terminate()
    for one in started:
        one.join()


def kill_workers(workers: Iterable[BaseProcess]) -> None:
    """End workers at once."""
    for one in workers:
        if one.pid is not None:
            one.kill()


def _end_with_parent() -> None:
    """Stop this process when its parent has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
