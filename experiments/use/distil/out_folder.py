"""The folder that a distilled data set is written to: complete, or not there."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from vit_patch_env.checks import ArgumentError, named
from vit_patch_env.experiments.run_folder.folder import LOCK, check_possible, lock_folder
from vit_patch_env.experiments.run_folder.schemas import read_checked
from vit_patch_env.system.shown import escaped

DISTIL = "distil.json"
SPLITS = ("train", "val", "test")

_IMAGE = re.compile(r"\d{6,}\.png")
_NEW, _OLD = "new", "old"


class _Fields(TypedDict):
    """Fields of distil.json that show that a folder was distilled."""

    by: str
    run: str
    kept: dict[str, Any]


_FIELDS: TypeAdapter[Any] = TypeAdapter(_Fields)


class OutFolder:
    """A folder that gets its name once all is in it.

    It is written in a hidden folder beside it, `.<name>.distil`, which is locked, and which the
    next call clears if a process was killed.

    Args:
        path: of the folder.
        overwrite: whether it may replace what was distilled there.
    """

    def __init__(self, path: str, overwrite: bool) -> None:
        self.path = Path(path)
        self._overwrite = overwrite
        self._absolute = Path(os.path.abspath(path))  # noqa: PTH100  (without following links)
        self._beside = self._absolute.parent / f".{self._absolute.name}.distil"

    def check(self) -> None:
        """Refuse a path that cannot be written to, or that holds anything else.

        Raises:
            ArgumentError: naming what is there.
        """
        if not os.path.lexists(self._absolute):
            check_possible(self._absolute.parent, "folder")
            return
        other = _not_distilled(self._absolute)
        if other:
            raise ArgumentError("folder", f"must be a new folder, got {self.path}: {other}")
        if not self._overwrite:
            raise ArgumentError("folder", f"must be new, got {self.path}: add {named('overwrite')}")

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Within the block, an empty folder to write to; after it, the folder has its name.

        If the block raises an exception, nothing has changed.

        Raises:
            ArgumentError: as `check`, or if another process is writing there.
        """
        lock = lock_folder(self._beside, "folder")
        with ExitStack() as stack:
            stack.callback(lock.release)
            self._clear()
            try:
                self.check()
                new = self._beside / _NEW
                new.mkdir()
                yield new
                self.check()
                if self._absolute.exists():
                    self._absolute.rename(self._beside / _OLD)
                new.rename(self._absolute)
            finally:
                self._clear()
                shutil.rmtree(self._beside, ignore_errors=True)

    def _clear(self) -> None:
        """Remove what is unfinished, and what has been replaced."""
        found = {one.name for one in self._beside.iterdir()}
        if not found <= {LOCK, _NEW, _OLD}:
            others = escaped(min(found - {LOCK, _NEW, _OLD}))
            raise ArgumentError("folder", f"is written in {self._beside}, which holds {others}")
        if _OLD in found and not self._absolute.exists():
            (self._beside / _OLD).rename(self._absolute)
        for name in found & {_NEW, _OLD}:
            shutil.rmtree(self._beside / name, ignore_errors=True)


def _not_distilled(path: Path) -> str:
    """What is at a path that is not what was distilled; empty if nothing is.

    Raises:
        InputError: for a damaged distil.json.
    """
    if path.is_symlink() or not path.is_dir():
        return "it is a link" if path.is_symlink() else "it is no folder"
    if not (path / DISTIL).is_file():
        return f"it exists, and there is no {DISTIL} in it"
    read_checked(path / DISTIL, _FIELDS)
    for one in _others(path):
        return f"it also holds {escaped(one.relative_to(path))}"
    return ""


def _others(path: Path) -> Iterator[Path]:
    """What `distil` does not write, in a folder that it has written."""
    for split in path.iterdir():
        if split.name == DISTIL:
            continue
        if split.name not in SPLITS or not _is_folder(split):
            yield split
            continue
        for folder in split.iterdir():
            if not _is_folder(folder):
                yield folder
                continue
            for image in folder.iterdir():
                if not _IMAGE.fullmatch(image.name) or image.is_dir():
                    yield image


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
