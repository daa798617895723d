"""Signals while the program `vit-patch` runs: they raise an exception, once."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vit_patch_env.system import starting
from vit_patch_env.system.starting import end_at_once

SAME_SECONDS = 0.5
"""Within this time, signals count as one: `timeout` sends its signal twice, to its process and to
the process group; a closed terminal and its shell both send SIGHUP."""


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
    before = starting.handle(signals._receive)
    outer = dict(starting.before)
    starting.before.update(
        {number: outer.get(number, handler) for number, handler in before.items()}
    )
    unraisable = sys.unraisablehook
    sys.unraisablehook = lambda error: None if signals.received else unraisable(error)
    try:
        yield signals
    finally:
        sys.unraisablehook = unraisable
        starting.restore(before)
        starting.before.clear()
        starting.before.update(outer)
