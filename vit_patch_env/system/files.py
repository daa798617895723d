"""Files that are written atomically, and states with a checksum."""

import hashlib
import io
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from vit_patch_env.checks import InputError
from vit_patch_env.reading import open_archive, open_regular
from vit_patch_env.system.limits import memory_limit
from vit_patch_env.system.tensors import check_plain
from vit_patch_env.system.torch_state import own_torch_state

_MAGIC = b"vit-patch-env state\n"
_VERSION = 2
_HEADER = _MAGIC + _VERSION.to_bytes(4, "big")
_DIGEST_SIZE = hashlib.sha256().digest_size

_NAME_BYTES = 100
"""Of a file's name in that of the temporary file that becomes it."""


class VersionError(InputError):
    """A state was written by another version of this package."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file atomically: write to the yielded path, which then replaces `path`.

    The new file is flushed to disk and renamed when the block ends without an error. Otherwise,
    and if the process is killed or the disk is full, `path` keeps its previous content. A link at
    `path` is replaced, not followed.

    Yields:
        The path of a temporary file in the same folder.

    Raises:
        OSError: if it cannot be written.
    """
    # Shortened, so that every name that a file may have leaves room for what is added.
    name = os.fsencode(path.name)[:_NAME_BYTES].decode(errors="ignore")
    partial = path.with_name(f".{name}.{secrets.token_hex(8)}.tmp")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder."""
    for path in folder.glob(".*." + 16 * "[0-9a-f]" + ".tmp"):
        with suppress(OSError):  # they are in nobody's way
            path.unlink()


def save_state(path: Path, state: Any) -> None:
    """Write plain data and tensors atomically to a file with a checksum.

    Args:
        path: of the file, in an existing folder.
        state: tensors, numbers, text, None, and lists, tuples and dictionaries of them.

    Raises:
        OSError: if it cannot be written; an existing file keeps its content.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        hashed = _HashingWriter(file)
        hashed.write(_HEADER)
        try:
            torch.save(state, hashed)  # type: ignore[arg-type]  # it only needs write
        except RuntimeError as error:  # raised by torch for an OSError in write
            raise hashed.error or error from error
        file.write(hashed.digest.digest())


def load_state(path: Path) -> Any:
    """Load what `save_state` wrote, on the CPU. No code in the file is executed.

    Raises:
        VersionError: if it was written by another version of this package.
        ValueError: if it is missing, no regular file, larger than the memory, damaged, or not a
            saved state.
    """
    content = _state_content(path)
    version = int.from_bytes(content[len(_MAGIC) : len(_HEADER)], "big")
    if version == 1:  # before the checksum, so that old files always get this message
        raise VersionError(
            f"expected a state of version {_VERSION} in {path}, got 1, written by vit-patch-env "
            "before 0.2: resume it with that version"
        )
    if hashlib.sha256(content[:-_DIGEST_SIZE]).digest() != content[-_DIGEST_SIZE:]:
        raise InputError(f"expected an intact file in {path}, got a damaged or truncated one")
    if version != _VERSION:
        raise VersionError(f"expected a state of version {_VERSION} in {path}, got {version}")
    try:
        return load_tensors(content[len(_HEADER) : -_DIGEST_SIZE])
    except InputError as error:
        raise InputError(f"expected plain data and tensors in {path}, got {error}") from error


def load_tensors(content: bytes | memoryview, also: Sequence[type] = ()) -> Any:
    """What `torch.save` wrote of plain data and tensors, on the CPU. No code in it is executed.

    Args:
        content: of the file.
        also: further classes whose objects may be in it, which only hold data.

    Raises:
        InputError: if it is something else, or unpacks to much more than its size; says what came.
    """
    content = bytes(content)
    open_archive(content).close()  # torch unpacks whatever a file says
    try:
        # Without its own state a caller's inference mode would make tensors that cannot train.
        with own_torch_state(), torch.serialization.safe_globals(list(also)):
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # unpickling a file from elsewhere may raise anything
        raise InputError("something else") from error
    check_plain(state, len(content))
    return state


def _state_content(path: Path) -> memoryview:
    """The content of a file that begins as a state does."""
    with open_regular(path, memory_limit(), "a saved state") as file:
        try:
            begin = file.read(len(_MAGIC))
            if begin == _MAGIC:
                rest = file.read(os.fstat(file.fileno()).st_size - len(_MAGIC))
                return memoryview(begin + rest)
        except OSError as error:
            raise InputError(f"expected a saved state in {path}, got: {error.strerror}") from error
    raise InputError(f"expected a saved state in {path}, got another file or a damaged one")


class _HashingWriter:
    """A file that computes the SHA-256 of everything written to it.

    Args:
        file: open for writing.

    Attributes:
        digest: of the bytes written so far.
        error: the last error in writing, which torch.save hides; None if there was none.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write and hash the data."""
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()


def _flush(path: Path) -> None:
    """Wait until the content of a file, or of a folder's listing, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
