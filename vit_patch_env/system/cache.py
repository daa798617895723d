"""Where downloads, decoded images and compiled kernels are kept, and how much of them."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from vit_patch_env.checks import InputError
from vit_patch_env.reading import read_end
from vit_patch_env.system.home import CACHES, is_usable, private_folder

IMAGES = "images"
"""Subfolder of the cache with a folder for each store of decoded images."""

HUGGING_FACE = "hugging_face"
"""Subfolder of the cache with the copies that Hugging Face's datasets makes of Parquet files."""

ABOUT = "about"
"""File of a store: where its images come from; its time is that of the last use."""

_ABOUT_BYTES = 10_000

LIMIT_VARIABLE = "VIT_PATCH_CACHE_GB"
"""Environment variable: gigabytes of decoded images that are kept."""

_DEFAULT_LIMIT = 100.0

_NAME = "vit-patch-env"


def cache_dir() -> Path:
    """The user's cache folder for this package; on Linux in XDG_CACHE_HOME or ~/.cache.

    Without a home, or with one that cannot be written, it is in a private temporary folder.

    Raises:
        InputError: if that cannot be used either.
    """
    try:
        path = user_cache_path(_NAME, appauthor=False)
    except RuntimeError:  # without a home; of older versions of platformdirs it is below "~"
        path = Path("~")
    if is_usable(path) or (os.environ.get("XDG_CACHE_HOME") and path.is_absolute()):
        return path
    return private_folder() / CACHES / _NAME


class Entry(NamedTuple):
    """Decoded images in the cache.

    Attributes:
        folder: of the store; of version 0.1 a file.
        about: where the images come from.
        n_bytes: on the disk.
        used: when they were last used, in seconds since the epoch.
    """

    folder: Path
    about: str
    n_bytes: int
    used: float


def entries(cache: Path) -> list[Entry]:
    """The decoded images in the cache, those used last first."""
    found = []
    for folder in (path for path in (cache / IMAGES).glob("*") if path.is_dir()):
        try:
            about = read_end(folder / ABOUT, _ABOUT_BYTES).decode(errors="replace")
            used = (folder / ABOUT).stat().st_mtime
            n_bytes = sum(512 * path.stat().st_blocks for path in folder.iterdir())
        except OSError:  # being made or removed by another process
            continue
        found.append(Entry(folder, about, n_bytes, used))
    arrow = cache / HUGGING_FACE
    if arrow.is_dir():
        n_bytes = sum(file.stat().st_size for file in arrow.rglob("*") if file.is_file())
        found.append(Entry(arrow, "copies of Parquet files", n_bytes, arrow.stat().st_mtime))
    for file in cache.glob("*.safetensors"):
        with suppress(OSError):
            stat = file.stat()
            found.append(Entry(file, f"{file.name} (of version 0.1)", stat.st_size, stat.st_mtime))
    return sorted(found, key=lambda entry: -entry.used)


def require_file(path: Path) -> None:
    """Refuse what is neither a regular file nor missing, such as a named pipe, which blocks.

    Raises:
        OSError: naming it.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "expected a regular file", str(path))


class Descriptor:
    """An open file, closed with the object. Forked processes share it.

    Args:
        path: of the file, made if there is none.

    Attributes:
        number: of the file's descriptor.
    """

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "number"):
            close(self.number)


def lock_path(folder: Path) -> Path:
    """The file of the lock of a folder, beside it, so that it outlives the folder."""
    return folder.with_name(folder.name + ".lock")


def lock_shared(descriptor: int) -> None:
    """Mark an open file as in use, where the file system can, until all its copies are closed."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def remove(entry: Entry) -> bool:
    """Remove decoded images; whether that was possible, as no process is using them."""
    if entry.folder.is_file():
        entry.folder.unlink(missing_ok=True)
        return True
    try:
        with FileLock(lock_path(entry.folder), timeout=0):
            about = Descriptor(entry.folder / ABOUT)
            fcntl.flock(about.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.folder)
    except (OSError, Timeout):
        return False
    return True


def limit_bytes() -> float:
    """The size that decoded images may have, from VIT_PATCH_CACHE_GB or 100 GB.

    Raises:
        ValueError: if the variable is not a number.
    """
    text = os.environ.get(LIMIT_VARIABLE, str(_DEFAULT_LIMIT))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise InputError(f"{LIMIT_VARIABLE} must be a number of gigabytes, got {text!r}")
    return 1e9 * limit


def make_room(cache: Path, n_bytes: int, *, keep: Path) -> None:
    """Remove the decoded images used longest ago, until so many more are within the limits.

    The limits are `limit_bytes` and the free space of the disk. Nothing is removed if that would
    not be enough.

    Args:
        cache: the cache folder.
        n_bytes: that will be written.
        keep: the folder of a store that is not removed.

    Raises:
        ValueError: if that is not enough.
    """
    limit, free = limit_bytes(), shutil.disk_usage(keep).free
    found = entries(cache)
    own = sum(entry.n_bytes for entry in found if entry.folder == keep)
    others = [entry for entry in reversed(found) if entry.folder != keep]
    total = sum(entry.n_bytes for entry in others)
    if own + n_bytes > limit:
        raise InputError(
            f"expected at most {limit / 1e9:.1f} GB of decoded images ({LIMIT_VARIABLE}), got "
            f"{(own + n_bytes) / 1e9:.1f} GB of these"
        )
    if n_bytes > free + total:
        raise InputError(
            f"expected {n_bytes / 1e9:.1f} GB of free space for decoded images in {keep}, got "
            f"{free / 1e9:.1f} GB: XDG_CACHE_HOME chooses another disk"
        )
    for entry in others:
        if own + total + n_bytes <= limit and n_bytes <= free:
            break
        if remove(entry):
            total -= entry.n_bytes
            free = shutil.disk_usage(keep).free
