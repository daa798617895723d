"""What a signal does while the program `vit-patch` starts: it ends it in one line.

The package imports this before anything else, and this imports next to nothing, as importing
libraries takes seconds: within an import, Ctrl-C may become any exception, or none. Where the
package is imported by another program, importing this changes nothing.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

PROGRAM = "vit-patch"

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")  # SIGHUP: a closed terminal, not on Windows
    if hasattr(signal, name)
)

Handler = Callable[[int, FrameType | None], object] | int | None

before: dict[int, Handler] = {}
"""Handlers to return to in a forked process, which is not the program."""


def end_at_once(number: int, frame: FrameType | None = None) -> None:
    """End the process because of a signal, in one line, with status 128 plus its number."""
    try:  # noqa: SIM105  (contextlib takes 1 ms)
        os.write(2, f"{PROGRAM}: {describe(number)}\n".encode())
    except OSError:  # a closed stream
        pass
    os._exit(128 + number)


def describe(number: int) -> str:
    """A signal in words."""
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"


def handle(handler: Handler) -> dict[int, Handler]:
    """Set the handler of all signals that are not ignored; the handlers before."""
    old = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    handled: dict[int, Handler] = {
        one: it for one, it in old.items() if it not in (signal.SIG_IGN, None)
    }
    for number in handled:
        signal.signal(number, handler)
    return handled


def restore(handlers: dict[int, Handler]) -> None:
    """Set handlers by the numbers of their signals."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _forget() -> None:
    """Let a forked process handle signals as if it were not of the program."""
    restore(before)
    before.clear()


def _is_program() -> bool:
    """Whether this process runs the console script, and not another program or a worker of it."""
    file = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    return os.path.basename(file).split(".")[0] == PROGRAM  # noqa: PTH119  (pathlib takes 10 ms)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
if _is_program():
    try:  # noqa: SIM105  (contextlib takes 1 ms)
        before.update(handle(end_at_once))
    except ValueError:  # not in the main thread, where handlers cannot be set
        pass
