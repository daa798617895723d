"""Files that are whole or not there: written beside their place, flushed to disk, renamed."""

import hashlib
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

_MAGIC = b"vit-patch-env state\n"
_VERSION = 1
_HEADER = _MAGIC + _VERSION.to_bytes(4, "big")
_DIGEST_SIZE = hashlib.sha256().digest_size


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error.

    A process that dies, or a disk that is full, leaves what was there before. A link at `path` is
    replaced, not followed.

    Raises:
        OSError: if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what processes that died had begun to write to files of a folder."""
    for path in folder.glob(".*." + 16 * "[0-9a-f]" + ".tmp"):
        path.unlink(missing_ok=True)


def save_state(path: Path, state: Any) -> None:
    """Write plain data and tensors to a file with a checksum, in the place of what is there.

    Args:
        path: of the file, in a folder that there is.
        state: tensors, numbers, text, None, and lists, tuples and dictionaries of them.

    Raises:
        OSError: if it cannot be written; what was there before is kept.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        hashed = _Hashed(file)
        hashed.write(_HEADER)
        try:
            torch.save(state, hashed)  # type: ignore[arg-type]  # it needs no more than write
        except RuntimeError as error:  # which is what it makes of an error in writing
            raise hashed.error or error from error
        file.write(hashed.digest.digest())


def load_state(path: Path) -> Any:
    """What `save_state` wrote, on the CPU; nothing in the file is executed.

    Raises:
        ValueError: if the file is not there, damaged, cut, or of another version.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise ValueError(f"expected a saved state in {path}, got: {error.strerror}") from error
    if bytes(content[: len(_MAGIC)]) != _MAGIC:
        raise ValueError(f"expected a saved state in {path}, got a file of another kind or damaged")
    if hashlib.sha256(content[:-_DIGEST_SIZE]).digest() != content[-_DIGEST_SIZE:]:
        raise ValueError(f"expected a whole file in {path}, got one that is damaged or cut")
    version = int.from_bytes(content[len(_MAGIC) : len(_HEADER)], "big")
    if version != _VERSION:
        raise ValueError(f"expected a state of version {_VERSION} in {path}, got {version}")
    try:
        payload = io.BytesIO(content[len(_HEADER) : -_DIGEST_SIZE])
        return torch.load(payload, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling raises where somebody else wrote the file
        raise ValueError(
            f"expected plain data and tensors in {path}, got something else"
        ) from error


class _Hashed:
    """A file being written, and the SHA-256 of all that was.

    Args:
        file: open for writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write and hash."""
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Hand everything to the system."""
        self.file.flush()


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
