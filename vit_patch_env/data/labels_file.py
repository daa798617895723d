"""Files of labels: a table with an image file and its label in each row."""

import csv
import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

from vit_patch_env.checks import InputError, counted, shown
from vit_patch_env.data.left_out import LeftOut
from vit_patch_env.data.listing import joined
from vit_patch_env.data.split_names import split_of_word
from vit_patch_env.names import SplitName
from vit_patch_env.reading import open_regular, read_bytes
from vit_patch_env.system.shown import escaped

_FILE = ("file", "filename", "file_name", "image", "path", "id")
_LABEL = ("label", "class", "target")
_SPLIT = "split"
_DELIMITERS = (",", ";", "\t")

LABELS_BYTES = 4 * 10**9
"""Of a file of labels: some 40 million rows."""


class Row(NamedTuple):
    """A row: its line in the file, the path of the image, its label, and its split or None."""

    line: int
    path: str
    label: str
    split: SplitName | None


class Header(NamedTuple):
    """The delimiter of a table, and the columns of file, label and split (None without one)."""

    delimiter: str
    file: int
    label: int
    split: int | None


def read_header(path: str) -> Header | None:
    """The header of a file of labels; None if its first line is something else.

    Raises:
        ValueError: if it cannot be read.
    """
    with open_regular(Path(path), LABELS_BYTES, "a file of labels") as table:
        line = _decoded(table.readline(10_000))
    for delimiter in _DELIMITERS:
        names = [name.strip().strip('"').casefold() for name in line.split(delimiter)]
        file, label = (
            next((names.index(name) for name in known if name in names), None)
            for known in (_FILE, _LABEL)
        )
        if file is not None and label is not None:
            return Header(delimiter, file, label, names.index(_SPLIT) if _SPLIT in names else None)
    return None


def header_problem(path: str) -> str:
    """What is wrong with a file of labels without a header."""
    return f"expected the columns file and label in the first line of {path!r}, got others"


def read_rows(path: str, header: Header, known: set[str], left_out: LeftOut) -> list[Row]:
    """The rows of a file of labels, one for each image.

    Args:
        path: of the file of labels.
        header: of `read_header`.
        known: paths of the images below its folder.
        left_out: counts rows that repeat an image with the same label.

    Raises:
        ValueError: for a row without file, label or known split, a file that is missing, no image
            or outside the folder, or an image with two labels.
    """
    rows: dict[str, Row] = {}
    stems: dict[str, list[str]] = {}
    for picture in known:
        stems.setdefault(picture.rpartition(".")[0], []).append(picture)
    for line, values in _lines(path, header.delimiter):
        if not any(value.strip() for value in values):
            continue
        where = f"line {line} of {path!r}"
        name, label = (_value(values, column).strip() for column in (header.file, header.label))
        if not name or not label:
            raise InputError(f"expected a file and its label in {where}, got {shown(values)}")
        split = None
        if header.split is not None:
            word = _value(values, header.split)
            split = split_of_word(word)
            if split is None:
                raise InputError(
                    f"expected train, val or test as split in {where}, got {shown(word)}"
                )
        picture = _find(path, name, known, stems, where)
        row = Row(line, picture, label, split)
        before = rows.setdefault(picture, row)
        if (before.label, before.split) != (label, split):
            raise InputError(
                f"expected one label and split for each image, got {shown(name)} in {where} with "
                f"{_meaning(row)}, and with {_meaning(before)} in line {before.line}"
            )
        if before is not row:
            left_out.add("row that repeats a file")
    if not rows:
        raise InputError(f"expected a row for each image in {path!r}, got none")
    without = len(known) - len(rows)
    if without:
        left_out.add("image without a row", count=without)
    return list(rows.values())


def _decoded(content: bytes) -> str:
    # As Python decodes the names of files, so that those that are not UTF-8 are found.
    return content.decode("utf-8-sig", "surrogateescape")


def _lines(path: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """The lines after the header, numbered from 1 with it, and their values."""
    try:
        text = _decoded(read_bytes(Path(path), LABELS_BYTES, "a file of labels"))
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True
        )
        next(reader)
        return [(reader.line_num, values) for values in reader]
    except (csv.Error, StopIteration) as error:
        raise InputError(f"expected a table of labels in {path!r}, got: {error}") from error


def _value(values: list[str], column: int) -> str:
    return values[column] if column < len(values) else ""


def _meaning(row: Row) -> str:
    split = f" in {row.split}" if row.split else ""
    return f"label {shown(row.label)}{split}"


def _find(table: str, name: str, known: set[str], stems: dict[str, list[str]], where: str) -> str:
    """The path of the image that a row names, with or without its suffix.

    Raises:
        ValueError: if there is none, or two.
    """
    folder = table.rpartition(os.sep)[0] or os.sep
    if (path := joined(folder, name)) in known:
        return path
    for written in (name, name.replace("\\", "/")):  # tables from Windows
        absolute = Path(written).is_absolute()
        relative = os.path.relpath(written, folder) if absolute else os.path.normpath(written)
        if Path(relative).parts[:1] == (os.pardir,):
            raise InputError(
                f"expected files in {folder!r}, got {shown(name)} outside it in {where}"
            )
        path = joined(folder, relative)
        if path in known:
            return path
        candidates = stems.get(path, [])
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise InputError(
                f"expected one image for {shown(name)} in {where}, got "
                f"{counted(len(candidates), 'file')} with this name and different suffixes"
            )
    raise InputError(
        f"expected an image for each row, got {shown(name)} in {where}: {_problem(path)}"
    )


def _problem(path: str) -> str:
    """Why a path is no image that was listed."""
    try:
        mode = Path(path).stat().st_mode
    except ValueError:  # a name with a null byte
        return "no such file"
    except OSError as error:
        return (error.strerror or escaped(str(error))).lower()
    if stat.S_ISREG(mode):
        return "a file without an image's suffix, or a hidden one"
    return "a folder" if stat.S_ISDIR(mode) else "no regular file"
