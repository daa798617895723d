"""A command in a process group of its own, which ends with all that it has started."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

_PROGRAMS = {
    "vit-patch": ("-m", "vit_patch_env.experiments"),  # it need not be installed
    "pytest": ("-m", "pytest"),
    "python": (),
}
"""Arguments of this Python, by the first word of a command."""

_KILL_SECONDS = 10.0
"""That the system may take to end processes that are killed."""


class Running(Protocol):
    """A command that runs."""

    def wait(self, seconds: float) -> int | None:
        """Its exit status, negative for a signal; None if it still runs after so many seconds."""

    def stop(self, seconds: float) -> None:
        """Ask it to end, and kill after so many seconds what has not."""

    def kill(self) -> None:
        """End it at once."""


class Process:
    """A command that runs, and the processes that it starts. It starts at once.

    Args:
        words: of the command: of `vit-patch`, `pytest` or `python`.
        log: to which its output is added.
    """

    def __init__(self, words: Sequence[str], log: Path) -> None:
        with log.open("ab") as file:
            file.write(f"$ {shlex.join(words)}\n".encode(errors="backslashreplace"))
            file.flush()
            self._process = subprocess.Popen(
                [sys.executable, *_PROGRAMS[words[0]], *words[1:]],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # signals of the terminal are for the process that waits
            )

    def wait(self, seconds: float) -> int | None:
        """As `Running`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, seconds: float) -> None:
        """As `Running`."""
        self._signal(signal.SIGTERM)
        self.wait(seconds)
        self.kill()
        self.wait(_KILL_SECONDS)

    def kill(self) -> None:
        """As `Running`; also what a process that has ended has left behind."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # all have ended
            os.killpg(self._process.pid, number)
