"""Stopping on SIGTERM, SIGHUP or Ctrl-C."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from vit_patch_env.system.interrupts import SAME_SECONDS as SAME_SECONDS
from vit_patch_env.system.starting import STOP_SIGNALS as STOP_SIGNALS


@contextmanager
def stopping(
    request_stop: Callable[[], None], end_workers: Callable[[], None] = lambda: None
) -> Iterator[list[int]]:
    """Within the block, a signal calls `request_stop`; a second one ends the process at once.

    A process that another one has started leaves that to it: it may hear a signal of the process
    group and then the other's, so that all are one to it, also after the block.

    Signals that are ignored stay ignored. Outside the main thread, where handlers cannot be set,
    nothing changes.

    Args:
        request_stop: called in the main thread, at the first signal.
        end_workers: called in another thread, before the process ends at once with status 128 plus
            the second signal's number.

    Yields:
        The numbers of the signals received so far.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    is_worker = multiprocessing.parent_process() is not None
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def receive(number: int, frame: FrameType | None) -> None:
        # Handlers stay as they are: Python cannot deliver a signal whose handler has just changed.
        received.append(number)
        if len(received) > 1:
            return
        if not is_worker:
            watching.enter_context(_ending_at_another(handled, end_workers))
        request_stop()

    with ExitStack() as watching:
        for number in handled:
            signal.signal(number, receive)
        try:
            yield received
        finally:
            for number in handled:
                ignored = is_worker and received
                signal.signal(number, signal.SIG_IGN if ignored else before[number])


@contextmanager
def _ending_at_another(numbers: list[int], end_workers: Callable[[], None]) -> Iterator[None]:
    """Within the block, one more of these signals ends the process, whatever it is doing.

    A thread ends it, as handlers wait until the main thread is back from torch's functions.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)  # as `set_wakeup_fd` demands
    since = time.monotonic()

    def watch() -> None:
        while number := os.read(heard, 1):  # until the block ends
            if number[0] in numbers and time.monotonic() > since + SAME_SECONDS:
                end_workers()
                os._exit(128 + number[0])

    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)
        watcher.join()
        os.close(heard)
