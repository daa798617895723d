"""How a command ends: by a mistake of the user's, or as it was asked to."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, TextIO

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def fail(message: str) -> NoReturn:
    """End the program with one line on standard error and status 2."""
    say(message)
    sys.exit(2)


def say(message: str) -> None:
    """One line on standard error, if somebody can hear it."""
    with suppress(OSError):
        print("vit-patch: " + " ".join(message.split()), file=sys.stderr, flush=True)


class Unbroken:
    """A text file that says nothing of what it cannot write, so that a full disk ends no run.

    Args:
        file: that is written to.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand to the system what can be handed."""
        with suppress(OSError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning in one line: what `warnings.showwarning` is set to by the command line."""
    say(f"warning: {message}")


@contextmanager
def stopping(ask: Callable[[], None]) -> Iterator[list[int]]:
    """While it lasts, SIGTERM or Ctrl-C calls `ask`; a second one ends the process at once.

    Signals that are ignored stay ignored. Outside the main thread, where no handler can be set,
    nothing changes.

    Yields:
        The signals that came.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for other in handled:
            signal.signal(other, signal.SIG_DFL)
        ask()

    for number in handled:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number in handled:
            signal.signal(number, before[number])
