"""Text output that never fails."""

from contextlib import suppress
from typing import Any, TextIO


class BestEffortOutput:
    """A text file that ignores errors in writing, so that a full disk does not end a run.

    Args:
        file: to write to.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write the text if possible."""
        with suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the file if possible."""
        with suppress(OSError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
