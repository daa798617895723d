"""Copies of a command's folder in storage that all nodes reach: a folder, or a URL of fsspec."""

import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from vit_patch_env.checks import ArgumentError, named
from vit_patch_env.experiments.run_folder.folder import CHECKPOINTS, LOCK, RESULT, RUNS
from vit_patch_env.system.files import replacing

_Stamp = tuple[int, int]


class Storage:
    """Copies files of a folder to storage and back, by their paths in the folder.

    A file is written over, never in two versions; nothing but such files is removed.

    Args:
        url: of the storage; of a folder in it for this one.
        folder: whose files are copied; it has the same path on every node.

    Attributes:
        url: of the storage, absolute.

    Raises:
        ArgumentError: if fsspec cannot open such a URL.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self._sent: dict[Path, _Stamp] = {}
        try:
            opened: Any = fsspec.core.url_to_fs(url)
            self._files, root = opened
        except (ValueError, ImportError, OSError, TypeError) as error:
            raise _unusable(url, error) from error
        self._root = str(root).rstrip("/")
        is_local = isinstance(self._files, LocalFileSystem)
        # The same on every node; of others, the path is not all that the URL says.
        self.url = f"file://{self._root}" if is_local else url
        here = Path(self._root) if is_local else None
        if here is not None and (here.is_relative_to(folder) or folder.is_relative_to(here)):
            raise ArgumentError("storage", f"must be apart from {named('out')} {folder}, got {url}")

    def check(self) -> None:
        """Refuse storage that cannot be written and read.

        Raises:
            ArgumentError: saying what is wrong.
        """
        path = f"{self._root}/.written-{uuid.uuid4().hex}"
        try:
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(path, b"vit-patch")
            content = self._files.cat_file(path)
            self._files.rm_file(path)
        except Exception as error:  # each kind of storage raises its own
            raise _unusable(self.url, error) from error
        if content != b"vit-patch":
            raise _unusable(self.url, "what was written there is read as something else")

    def send(self, part: Path) -> None:
        """Copy a part of the folder into storage, as far as it has changed since the last time.

        Checkpoints come first and a run's result last, so that what is there can be resumed at any
        time.

        Args:
            part: a folder in the folder, or itself: then without the runs.

        Raises:
            OSError: if it cannot be written.
        """
        found = self._local(part)
        for path in sorted(found, key=_order):
            with suppress(FileNotFoundError):  # removed since it was found
                stamp = _stamp(path)
                if self._sent.get(path) != stamp:
                    self._send(path)
                    self._sent[path] = stamp
        for path in [one for one in self._sent if self._is_of(one, part) and not one.exists()]:
            with suppress(FileNotFoundError):  # a node has removed it
                self._try(self._files.rm_file, self._remote(path))
            del self._sent[path]

    def fetch(self, part: Path) -> None:
        """Copy a part of the folder from storage, in place of what is here, if storage has it.

        Args:
            part: a folder in the folder, or itself: then without the runs, and nothing is removed.

        Raises:
            OSError: if it cannot be read.
        """
        remote = self._try(self._files.find, self._remote(part)) if self.has(part) else []
        found = (self.folder / one.removeprefix(f"{self._root}/") for one in remote)
        wanted = [path for path in found if self._is_of(path, part)]
        if wanted and part != self.folder:
            self._clear(part)
        for path in sorted(wanted, key=_order):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.copy(path, path)
            self._sent[path] = _stamp(path)

    def copy(self, path: Path, copy: Path) -> None:
        """Copy a file of storage to another path.

        Raises:
            OSError: if it cannot be read.
        """
        with replacing(copy) as partial:
            self._try(self._files.get_file, self._remote(path), str(partial))

    def newest_checkpoint(self, run: Path) -> str:
        """The name of the newest checkpoint that storage has of a run; empty if it has none."""
        folder = run / CHECKPOINTS
        found = self._try(self._files.find, self._remote(folder)) if self.has(folder) else []
        return max((one.rpartition("/")[2] for one in found), default="")

    def has(self, path: Path) -> bool:
        """Whether storage has a file or folder."""
        self._files.invalidate_cache()
        return bool(self._try(self._files.exists, self._remote(path)))

    def _local(self, part: Path) -> list[Path]:
        """The files of a part that are sent."""
        return [
            path
            for path in part.rglob("*")
            if path.is_file()
            and not path.is_symlink()
            and not path.name.startswith(".")  # locks, and files that are being written
            and self._is_of(path, part)
        ]

    def _is_of(self, path: Path, part: Path) -> bool:
        """Whether a file is of a part: the folder itself is without its runs."""
        in_runs = path.is_relative_to(self.folder / RUNS)
        return path.is_relative_to(part) and not (part == self.folder and in_runs)

    def _clear(self, part: Path) -> None:
        """Remove what is here of a part, but for its lock."""
        for path in part.iterdir() if part.is_dir() else ():
            if path.name == LOCK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path in [one for one in self._sent if one.is_relative_to(part)]:
            del self._sent[path]

    def _send(self, path: Path) -> None:
        remote = self._remote(path)
        self._try(self._files.makedirs, remote.rpartition("/")[0], exist_ok=True)
        self._try(self._files.put_file, str(path), remote)

    def _remote(self, path: Path) -> str:
        inner = path.relative_to(self.folder).as_posix()
        return self._root if inner == "." else f"{self._root}/{inner}"

    def _try(self, function: Any, *args: Any, **options: Any) -> Any:
        """What a function of the storage returns, with its errors as `OSError`."""
        try:
            return function(*args, **options)
        except OSError:
            raise
        except Exception as error:  # each kind of storage raises its own
            raise OSError(f"{self.url}: {' '.join(str(error).split())}") from error


def _order(path: Path) -> tuple[bool, bool, str]:
    return path.name == RESULT, path.parent.name != CHECKPOINTS, str(path)


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _unusable(url: str, error: object) -> ArgumentError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ArgumentError(
        "storage",
        f"must be a folder or URL that fsspec can write to, got {url}: {reason}",
    )
