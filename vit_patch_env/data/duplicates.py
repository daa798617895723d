"""Images that two splits have in common."""

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from typing import NamedTuple

from vit_patch_env.data.listing import Listing, counted
from vit_patch_env.system.shown import escaped

_SAMPLE = 512
"""Bytes from a file's end that are compared before files are read whole: headers are alike."""

_BLOCK = 1 << 20


class _File(NamedTuple):
    """A file, its size, and its device and inode."""

    path: str
    size: int
    id: tuple[int, int]


_Key = Callable[[_File], Hashable]


def duplicates(train: Listing, test: Listing) -> list[tuple[str, str]]:
    """The test images whose files have the same content as a training image's.

    Files that are empty or cannot be read are skipped, as they are no images.

    Returns:
        Pairs of a path in `train` and one in `test`, one for each such test image, in order.
    """
    files, others = _files(train.paths), _files(test.paths)
    by_id = {file.id: file.path for file in reversed(files)}
    # Hard links need no reading, and of the others each is read under one name.
    twins = {file.id: by_id[file.id] for file in others if file.id in by_id}
    left = list({file.id: file for file in reversed(files)}.values())[::-1]
    right = list({file.id: file for file in others if file.id not in twins}.values())
    digests: dict[tuple[tuple[int, int], int], bytes | None] = {}

    def digest(file: _File, n_bytes: int) -> bytes | None:
        key = file.id, n_bytes
        if key not in digests:
            digests[key] = _digest(file, n_bytes)
        return digests[key]

    keys: tuple[_Key, ...] = (
        lambda file: file.size,
        lambda file: (file.size, digest(file, min(file.size, _SAMPLE))),
        lambda file: digest(file, file.size),
    )
    for key in keys:
        left, right = _in_both(left, right, key)
    same = {digest(file, file.size): file.path for file in reversed(left)}
    same.pop(None, None)
    for file in right:
        path = same.get(digest(file, file.size))
        if path is not None:
            twins[file.id] = path
    return [(twins[file.id], file.path) for file in others if file.id in twins]


def duplicates_note(pairs: list[tuple[str, str]], test: Listing, purpose: str = "test") -> str:
    """A line with the number of duplicates and the first of them.

    Args:
        pairs: of `duplicates`, at least one.
        test: the listing that was compared.
        purpose: of its images.
    """
    path, twin = (escaped(path) for path in pairs[0])
    return (
        f"{len(pairs):,} of {counted(len(test.paths), f'{purpose} image')} are also training "
        f"images: {twin} is the same file as {path}{', ...' if len(pairs) > 1 else ''}"
    )


def _files(paths: Iterable[str]) -> list[_File]:
    found = []
    for path in paths:
        with suppress(OSError):
            status = os.stat(path)  # noqa: PTH116  (half the time of Path.stat)
            if status.st_size:
                found.append(_File(path, status.st_size, (status.st_dev, status.st_ino)))
    return found


def _in_both(left: list[_File], right: list[_File], key: _Key) -> tuple[list[_File], list[_File]]:
    """The files of both sides whose key occurs on the other side."""
    common = {key(file) for file in left} & {key(file) for file in right}
    return (
        [file for file in left if key(file) in common],
        [file for file in right if key(file) in common],
    )


def _digest(file: _File, n_bytes: int) -> bytes | None:
    """Hash of the last bytes of a file; None if it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        descriptor = os.open(file.path, os.O_RDONLY)  # a third of the time of Path.open
    except OSError:
        return None
    try:
        position = file.size - n_bytes
        while position < file.size and (block := os.pread(descriptor, _BLOCK, position)):
            digest.update(block)
            position += len(block)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return digest.digest()
