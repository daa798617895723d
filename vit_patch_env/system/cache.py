"""Where downloads, decoded images and compiled kernels are kept, and how much of them."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

IMAGES = "images"
"""Subfolder of the cache with a folder for each store of decoded images."""

ABOUT = "about"
"""File of a store: where its images come from; its time is that of the last use."""

LIMIT_VARIABLE = "VIT_PATCH_CACHE_GB"
"""Environment variable: gigabytes of decoded images that are kept."""

_DEFAULT_LIMIT = 100.0


def cache_dir() -> Path:
    """The user's cache folder for this package; on Linux in XDG_CACHE_HOME or ~/.cache."""
    return user_cache_path("vit-patch-env", appauthor=False)


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
    for folder in (cache / IMAGES).glob("*"):
        try:
            about = (folder / ABOUT).read_text(encoding="utf-8", errors="replace")
            used = (folder / ABOUT).stat().st_mtime
            n_bytes = sum(512 * path.stat().st_blocks for path in folder.iterdir())
        except OSError:  # being made or removed by another process
            continue
        found.append(Entry(folder, about, n_bytes, used))
    for file in cache.glob("*.safetensors"):
        with suppress(OSError):
            stat = file.stat()
            found.append(Entry(file, f"{file.name} (of version 0.1)", stat.st_size, stat.st_mtime))
    return sorted(found, key=lambda entry: -entry.used)


def remove(entry: Entry) -> bool:
    """Remove decoded images; whether that was possible, as no other process is decoding them."""
    try:
        if entry.folder.is_file():
            entry.folder.unlink()
            return True
        with FileLock(entry.folder / "lock", timeout=0):
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
        raise ValueError(f"{LIMIT_VARIABLE} must be a number of gigabytes, got {text!r}")
    return 1e9 * limit


def make_room(cache: Path, n_bytes: int, *, keep: Path) -> None:
    """Remove the decoded images used longest ago, until so many more are within the limits.

    The limits are `limit_bytes` and the free space of the disk.

    Args:
        cache: the cache folder.
        n_bytes: that will be written.
        keep: the folder of a store that is not removed.

    Raises:
        ValueError: if the disk is too small.
    """
    limit = limit_bytes()
    found = entries(cache)
    total = sum(entry.n_bytes for entry in found)
    for entry in reversed(found):
        if total + n_bytes <= limit and n_bytes <= shutil.disk_usage(keep).free:
            break
        if entry.folder != keep and remove(entry):
            total -= entry.n_bytes
    free = shutil.disk_usage(keep).free
    if n_bytes > free:
        raise ValueError(
            f"expected {n_bytes / 1e9:.1f} GB of free space for decoded images in {keep}, got "
            f"{free / 1e9:.1f} GB: XDG_CACHE_HOME chooses another disk"
        )
