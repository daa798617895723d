"""Signals that end the program `vit-patch` in one line, whatever it is doing.

The package imports this first, as importing other libraries takes seconds: within an import, Ctrl-C
may become any exception, or none. Where the package is imported by another program, importing
this changes nothing.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

PROGRAM = "vit-patch"

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")  # SIGHUP: a closed terminal, not on Windows
    if hasattr(signal, name)
)

SAME_SECONDS = 0.5
"""Within this time, signals count as one: `timeout` sends its signal twice, to its process and to
the process group; a closed terminal and its shell both send SIGHUP."""

_before: dict[int, Any] = {}
"""Handlers to return to in a forked process, which is not the program."""


class Interrupted(KeyboardInterrupt):
    """A signal has been received that ends the program."""


class Signals:
    """The signals received within `interruptible`.

    Attributes:
        received: their numbers, in order.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._since = 0.0

    def check(self) -> None:
        """End what is running if a signal was received and its exception went missing.

        Raises:
            Interrupted: if one was received.
        """
        if self.received:
            raise Interrupted

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if len(self.received) == 1:
            self._since = time.monotonic()
            raise Interrupted
        if time.monotonic() > self._since + SAME_SECONDS:
            end_at_once(number)


def end_at_once(number: int, frame: FrameType | None = None) -> NoReturn:
    """End the process because of a signal, in one line, with status 128 plus its number."""
    with suppress(OSError):
        os.write(2, f"{PROGRAM}: {describe(number)}\n".encode())
    os._exit(128 + number)


def describe(number: int) -> str:
    """A signal in words."""
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"


@contextmanager
def interruptible() -> Iterator[Signals]:
    """Within the block, a signal raises `Interrupted`, and another one ends the process at once.

    Signals that are ignored stay ignored. Outside the main thread, where handlers cannot be set,
    nothing changes. Afterwards all handlers are as they were.

    Yields:
        The signals received so far: code that is interrupted may turn the exception into another
        one, or lose it.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = _handle(signals._receive)
    outer = dict(_before)
    _before.update({number: outer.get(number, handler) for number, handler in before.items()})
    unraisable = sys.unraisablehook
    sys.unraisablehook = lambda error: None if signals.received else unraisable(error)
    try:
        yield signals
    finally:
        sys.unraisablehook = unraisable
        _restore(before)
        _before.clear()
        _before.update(outer)


def _handle(handler: Any) -> dict[int, Any]:
    """Set the handler of all signals that are not ignored; the handlers before."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    handled = {one: old for one, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in handled:
        signal.signal(number, handler)
    return handled


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _forget() -> None:
    """Let a forked process handle signals as if it were not of the program."""
    _restore(_before)
    _before.clear()


def _is_program() -> bool:
    """Whether this process runs the console script, and not another program or a worker of it."""
    file = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    return Path(file).stem == PROGRAM


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
if _is_program() and threading.current_thread() is threading.main_thread():
    _before.update(_handle(end_at_once))
