"""Pictures that are not decoded yet: files, and rows of Hugging Face data sets."""

import hashlib
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import ConcatDataset, Subset

from vit_patch_env.data.decoding import Encoded
from vit_patch_env.data.items import IMAGE_KEYS
from vit_patch_env.data.labels import is_hugging_face
from vit_patch_env.system.shown import escaped


class Table(NamedTuple):
    """A Hugging Face data set's column of encoded pictures.

    Attributes:
        rows: the data set, with only this column.
        column: its name.
        stamp: of the content.
        about: where it comes from.
    """

    rows: Any
    column: str
    stamp: bytes
    about: str


class Row(NamedTuple):
    """A row of a table, by its number from 0."""

    table: Table
    number: int

    def content(self) -> str | bytes:
        """The encoded picture, or the path of its file; empty if the row has neither."""
        value = self.table.rows[self.number][self.table.column] or {}
        content: str | bytes = value.get("bytes") or value.get("path") or b""
        return content


Reference = str | Row
"""A picture: the path of its file, or its row."""


class Pictures:
    """Pictures in a sequence of sets.

    Args:
        sets: for each, what it is called in messages, such as "the training set", and its pictures.
        root: a folder of all files; by default the deepest.
        complete: whether there are no other pictures in that folder.

    Attributes:
        origin: what is hashed to tell these pictures from others.
        about: where they come from, in words.
        complete: as the argument.
        may_be_grey: whether pictures are grey where all of them are; those of files never are.
    """

    def __init__(
        self,
        sets: Sequence[tuple[str, Sequence[Reference]]],
        root: Path | None = None,
        *,
        complete: bool = False,
    ) -> None:
        self._where = [where for where, _ in sets]
        self._starts = np.cumsum([0, *(len(references) for _, references in sets)])
        self._references = [reference for _, references in sets for reference in references]
        files = [reference for reference in self._references if isinstance(reference, str)]
        if root is None and files:
            root = Path(os.path.commonpath([os.path.dirname(path) for path in files]))  # noqa: PTH120
        self._root = "" if root is None else os.fspath(root)
        rows = [reference for reference in self._references if isinstance(reference, Row)]
        tables = {row.table.stamp: row.table for row in rows}
        resolved = [] if root is None else [os.fsencode(root.resolve())]
        self.origin = b"\0".join([*resolved, *sorted(tables)])
        self.about = " and ".join(
            [
                *([] if root is None else [escaped(root.resolve())]),
                *sorted({table.about for table in tables.values()}),
            ]
        )
        self.complete = complete
        self.may_be_grey = bool(rows)

    def __len__(self) -> int:
        return len(self._references)

    def name(self, position: int) -> str:
        """What a picture is called in messages."""
        reference = self._references[position]
        if isinstance(reference, str):
            return escaped(reference)
        return f"item {self.path_or_number(position)} of {self._where[self._set(position)]}"

    def path_or_number(self, position: int) -> str:
        """The path of a picture that is a file, otherwise its number in its set."""
        reference = self._references[position]
        if isinstance(reference, str):
            return reference
        return str(position - self._starts[self._set(position)])

    def _set(self, position: int) -> int:
        return int(np.searchsorted(self._starts, position, side="right")) - 1

    def __getitem__(self, position: int) -> Encoded:
        """The picture at a position."""
        reference = self._references[position]
        content = reference if isinstance(reference, str) else reference.content()
        return Encoded(content, self.name(position))

    def keys(self) -> list[bytes]:
        """A key for each picture (32 letters), which changes with its content.

        That of a file is of its path below the root, size, modification time and inode.
        """
        return [
            _file_key(reference, self._root) if isinstance(reference, str) else _row_key(reference)
            for reference in self._references
        ]


def _file_key(path: str, root: str) -> bytes:
    digest = hashlib.blake2b(os.fsencode(path[len(root) :].lstrip(os.sep)), digest_size=16)
    try:
        stat = os.stat(path)  # noqa: PTH116  (half the time of Path.stat, over 60,000 files)
    except OSError:  # found again, and named, when the file is decoded
        digest.update(b"\0")
    else:
        digest.update(b"\0%d %d %d" % (stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return digest.hexdigest().encode()


def _row_key(row: Row) -> bytes:
    digest = hashlib.blake2b(row.table.stamp + b"\0%d" % row.number, digest_size=16)
    return digest.hexdigest().encode()


def pictures_of(dataset: Any) -> list[Reference] | None:
    """The encoded pictures that the items of a data set are decoded from; None if unknown.

    Known are torchvision's data sets of files without transforms, and Hugging Face data sets with a
    column of the type `Image` in their default format, also within `Subset` and `ConcatDataset`.
    """
    # Subclasses may do something else with their items.
    if type(dataset) is Subset:
        inner = pictures_of(dataset.dataset)
        return None if inner is None else [inner[index] for index in dataset.indices]
    if type(dataset) is ConcatDataset:
        parts = [pictures_of(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return list(chain.from_iterable(known)) if len(known) == len(parts) else None
    if is_hugging_face(dataset):
        return _rows(dataset)
    if type(dataset).__module__.startswith("torchvision.datasets."):
        return _files(dataset)
    return None


_FILE_LISTS = ("_image_files", "_images", "samples", "imgs", "_samples")
"""Attributes of torchvision's data sets with paths, or with tuples that begin with a path."""


def _files(dataset: Any) -> list[Reference] | None:
    """The files of one of torchvision's data sets that opens them itself, without transforms."""
    from torchvision.datasets.folder import default_loader  # takes a second to import

    changed = (getattr(dataset, name, None) for name in ("transform", "transforms"))
    loader = getattr(dataset, "loader", default_loader)
    if any(transform is not None for transform in changed) or loader is not default_loader:
        return None
    for name in _FILE_LISTS:
        listed = getattr(dataset, name, None)
        if isinstance(listed, list) and len(listed) == len(dataset):
            paths = [entry[0] if isinstance(entry, tuple) else entry for entry in listed]
            if all(isinstance(path, str | os.PathLike) for path in paths):
                return [os.path.abspath(path) for path in paths]  # noqa: PTH100
    return None


_ROWS_AT_ONCE = 256


def _rows(dataset: Any) -> list[Reference] | None:
    """The rows of a Hugging Face data set whose images are decoded by Pillow, as they are."""
    import datasets

    column = next((key for key in IMAGE_KEYS if key in dataset.features), None)
    if column is None or dataset.features[column] != datasets.Image():
        return None
    if dataset.format["type"] is not None:
        return None
    if not len(dataset):
        return []
    rows = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    files = [Path(file["filename"]) for file in dataset.cache_files]
    stamp = hashlib.sha256(dataset._fingerprint.encode())
    for file in files:
        stat = file.stat()
        stamp.update(b"\0%d %d %d" % (stat.st_size, stat.st_mtime_ns, stat.st_ino))
    about = escaped(files[0].parent) if files else "a Hugging Face data set in memory"
    table = Table(rows, column, stamp.hexdigest().encode(), about)
    first: dict[str, Any] = next((value for value in (row[column] for row in rows) if value), {})
    if first.get("bytes") is not None:
        return [Row(table, number) for number in range(len(rows))]
    references: list[Reference] = []
    for batch in rows.iter(_ROWS_AT_ONCE):
        for value in batch[column]:
            path = (value or {}).get("path") or ""
            if "::" in path:  # within an archive
                return None
            is_file = os.path.exists(path)  # noqa: PTH110
            row = Row(table, len(references))
            references.append(os.path.abspath(path) if is_file else row)  # noqa: PTH100
    return references
