"""Stopping on SIGTERM or Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(request_stop: Callable[[], None]) -> Iterator[list[int]]:
    """Within the block, SIGTERM or Ctrl-C calls `request_stop`; a second one kills the process.

    Signals that are ignored stay ignored. Outside the main thread, where handlers cannot be set,
    nothing changes.

    Yields:
        The numbers of the signals received so far.
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
        request_stop()

    for number in handled:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number in handled:
            signal.signal(number, before[number])
