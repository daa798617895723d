"""Text output: lines as they are, and a file that never fails."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

from vit_patch_env.system.shown import escaped

if TYPE_CHECKING:  # every command imports this, and not all need torch
    from vit_patch_env.data.splits import ImageData


def print_line(text: str, console: Console) -> None:
    """Print a line as it is: "[red]" and ":cat:" may be names of classes."""
    console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)


def loaded(name: object, load: "Callable[[], ImageData]", console: Console) -> "ImageData":
    """Load images, and print which they are and what was read.

    Args:
        name: of the data set.
        load: what loads it.
        console: to print to.

    Raises:
        ValueError: as `load`, for a damaged image for example.
    """
    print_line(f"Loading {escaped(str(name))} ...", console)
    data = load()
    for note in data.notes:
        print_line(note, console)
    return data


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
