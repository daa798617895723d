"""Text output: lines and tables as they are, safe for a terminal, and a file that never fails.

Commands print through these functions alone: rich reads "[red]" and ":cat:" as more than text, and
names of classes or machines may hold what a terminal reads as commands.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vit_patch_env.system.shown import escaped, escaped_line

if TYPE_CHECKING:  # every command imports this, and not all need torch
    from vit_patch_env.data.splits import SplitData

Data = TypeVar("Data", bound="SplitData")

_LONGEST_CELL = 1_000
"""Characters of the longest text in a table, which may be a path."""


def print_line(text: str, console: Console) -> None:
    """Print one line as it is: "[red]" and ":cat:" may be names of classes."""
    console.print(Text(escaped_line(text)), soft_wrap=True)


def print_lines(lines: Iterable[str], console: Console) -> None:
    """Print lines as they are."""
    for line in lines:
        print_line(line, console)


class TextTable:
    """A table whose texts are printed as they are, each of them in one line.

    Args:
        title: above it; none if empty.
        left: heads of the first columns, whose texts begin on the left.
        right: heads of the others, of numbers.
    """

    def __init__(self, title: str, left: Sequence[str], right: Sequence[str] = ()) -> None:
        self._table = Table(title=_cell(title, "table.title") if title else None)
        self._table.title_justify = "left"
        for head in left:
            self._table.add_column(_cell(head))
        for head in right:
            self._table.add_column(_cell(head), justify="right")

    def add_row(self, *texts: str | tuple[str, str]) -> None:
        """Add a row.

        Args:
            texts: of its cells, or each with a style of rich; empty ones at the end are left out.
        """
        cells = ((one, "") if isinstance(one, str) else one for one in texts)
        self._table.add_row(*(_cell(text, style) for text, style in cells))

    def end_section(self) -> None:
        """Draw a line below the last row."""
        self._table.add_section()

    def add_caption(self, text: str) -> None:
        """Write a text below the table."""
        self._table.caption = _cell(text, "table.caption")

    def __rich__(self) -> Table:
        return self._table


def print_table(table: TextTable, console: Console) -> None:
    """Print a table."""
    console.print(table)


def loaded(name: object, load: "Callable[[], Data]", console: Console) -> Data:
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


def _cell(text: str, style: str = "") -> Text:
    return Text(escaped(text, _LONGEST_CELL), style)
