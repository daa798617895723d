"""Listing the images of folders: each folder once, whatever links lead to it."""

import os
import stat
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.checks import InputError
from vit_patch_env.data.left_out import LeftOut

LABELS_FILE = "labels.csv"

_SYSTEM = {"__macosx", "__pycache__", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}
"""What operating systems, archives and Python add to folders, beside hidden files."""

_SPECIAL = {
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}

FolderId = tuple[int, int]
"""Device and inode, which a folder has under all its names."""


class Listing(NamedTuple):
    """The images of a split, class by class, and by folder and name within a class.

    Attributes:
        root: the split's folder.
        paths: of the image files (n_images,), joined to `root`.
        labels: (n_images,), in [0, n_classes).
    """

    root: str
    paths: list[str]
    labels: NDArray[np.int64]


class Folder(NamedTuple):
    """A folder's content.

    Attributes:
        path: of the folder.
        id: its device and inode.
        pictures: sorted names of the image files directly in it.
        folders: sorted names of the folders directly in it.
        links: sorted names of the links to folders directly in it.
        labels: name of its file of labels, or None.
        left_out: everything else.
    """

    path: str
    id: FolderId
    pictures: list[str]
    folders: list[str]
    links: list[str]
    labels: str | None
    left_out: LeftOut

    @property
    def name(self) -> str:
        """The last part of the path."""
        return Path(self.path).name

    def is_empty(self) -> bool:
        """Whether it holds at most hidden files."""
        inside = self.pictures or self.folders or self.links or self.labels
        return not inside and not self.left_out.unexpected()


class Folders:
    """Reads each folder once.

    Args:
        suffixes: of image files, in lower case with the dot.
    """

    def __init__(self, suffixes: Collection[str]) -> None:
        self._suffixes = frozenset(suffixes)
        self._read: dict[str, Folder] = {}

    def read(self, path: str) -> Folder:
        """The content of a folder.

        Raises:
            ValueError: if it cannot be read.
        """
        if path not in self._read:
            with _readable(path):
                self._read[path] = self._scan(path)
        return self._read[path]

    def children(self, folder: Folder, above: Collection[FolderId]) -> list[str]:
        """Paths of the folders in a folder, sorted by name.

        Without links to one of the folders `above` or to a folder that is there already.
        """
        found = {joined(folder.path, name) for name in folder.folders}
        # Reading all would take seconds in a folder of a thousand classes: only links need it.
        known = {*above, folder.id} | ({_id(path) for path in found} if folder.links else set())
        for link in folder.links:
            path = joined(folder.path, link)
            if (identity := _id(path)) not in known:
                known.add(identity)
                found.add(path)
        return sorted(found)

    def hold_pictures(self, path: str) -> bool:
        """Whether there are images in a folder, at any depth."""
        visited: set[FolderId] = set()
        waiting = [path]
        while waiting:
            folder = self.read(waiting.pop())
            if folder.pictures:
                return True
            if folder.id not in visited:
                visited.add(folder.id)
                waiting += [joined(folder.path, name) for name in folder.folders + folder.links]
        return False

    def _scan(self, path: str) -> Folder:
        pictures: list[str] = []
        folders: list[str] = []
        links: list[str] = []
        labels = None
        left_out = LeftOut()
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                kind = _kind(entry)
                if is_passed_over(name):
                    what = "folder" if kind == "folder" else "file"
                    left_out.add(f"{'hidden' if name[0] == '.' else 'system'} {what}")
                elif kind == "folder":
                    (links if entry.is_symlink() else folders).append(name)
                elif kind != "file":
                    left_out.add(kind)
                elif (suffix := _suffix(name)) in self._suffixes:
                    pictures.append(name)
                elif name.casefold() == LABELS_FILE:
                    labels = name
                else:
                    left_out.add("file that is no image", suffix or "no suffix")
        return Folder(
            path, _id(path), sorted(pictures), sorted(folders), sorted(links), labels, left_out
        )


class Walked(NamedTuple):
    """The images below some folders.

    Attributes:
        pictures: by start, the paths of the images, by folder and name.
        left_out: by start, everything else.
    """

    pictures: dict[str, list[str]]
    left_out: dict[str, LeftOut]


def walk(folders: Folders, starts: Iterable[str], above: Collection[FolderId]) -> Walked:
    """The images below each of the folders `starts`, no folder twice.

    Links to folders are followed after all other folders, so that of a folder's names its own is
    used, and neither to a folder that was visited nor to one of those `above` the starts.

    Raises:
        ValueError: if a folder cannot be read.
    """
    visited = set(above)
    found: dict[str, list[Folder]] = {start: [] for start in starts}
    left_out = {start: LeftOut() for start in found}
    links: deque[tuple[str, str]] = deque()  # start, link below it
    for start in found:
        if Path(start).is_symlink():
            links.append((start, start))
        else:
            visit = _visit(folders, start, visited, found[start], left_out[start])
            links += [(start, link) for link in visit]
    while links:
        start, path = links.popleft()
        visit = _visit(folders, path, visited, found[start], left_out[start])
        links += [(start, link) for link in visit]
    pictures = {
        start: [
            joined(folder.path, name)
            for folder in sorted(below, key=lambda folder: folder.path)
            for name in folder.pictures
        ]
        for start, below in found.items()
    }
    return Walked(pictures, left_out)


def _visit(
    folders: Folders,
    path: str,
    visited: set[FolderId],
    found: list[Folder],
    left_out: LeftOut,
) -> list[str]:
    """Visit a folder and those below it; the links to folders among them."""
    links = []
    below = [path]
    while below:
        folder = folders.read(below.pop())
        if folder.id in visited:
            left_out.add("folder reached twice by links", folder.name)
            continue
        visited.add(folder.id)
        found.append(folder)
        left_out.update(folder.left_out)
        if folder.is_empty():
            left_out.add("empty folder", folder.name)
        below += [joined(folder.path, name) for name in folder.folders]
        links += [joined(folder.path, name) for name in folder.links]
    return links


def is_passed_over(name: str) -> bool:
    """Whether files and folders of this name are left out: hidden ones, and those of systems."""
    return name[0] == "." or name.casefold() in _SYSTEM


def joined(folder: str, name: str) -> str:
    """The path of a name in a folder."""
    return os.path.join(folder, name)  # noqa: PTH118  (a tenth of Path's time)


def _suffix(name: str) -> str:
    """A file name's suffix in lower case, with the dot; empty without one."""
    start = name.rfind(".")
    return name[start:].lower() if start > 0 else ""


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"expected folders that can be read, got {path!r}: {error.strerror}"
        ) from error


def _id(path: str) -> FolderId:
    with _readable(path):
        status = os.stat(path)  # noqa: PTH116  (half the time of Path.stat)
    return status.st_dev, status.st_ino


def _kind(entry: os.DirEntry[str]) -> str:
    """What an entry is, after following a link, without opening it."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
        return _SPECIAL.get(stat.S_IFMT(entry.stat().st_mode), "special file")
    except OSError:  # such as a link to itself, or to a name that is too long
        return "broken link" if entry.is_symlink() else "unreadable file"
