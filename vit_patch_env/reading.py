"""Files from outside, read with bounds: regular files of limited size, in plain formats.

Files of runs may come from elsewhere, and disks damage them. Whatever is in their place is read, or
refused in one line: nothing blocks, nothing is unpacked without a limit, and no code is executed.
"""

import io
import json
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from vit_patch_env.checks import InputError

MEGABYTE = 10**6

JSON_BYTES = 16 * MEGABYTE
"""Of a JSON file. Those of runs and comparisons have some kilobytes."""

JSON_DEPTH = 64
"""Of objects and lists in each other, in JSON."""

_DIGITS = 308
"""Of the largest integers that floats reach."""

_UNPACKED_BYTES = 64 * MEGABYTE
_UNPACKED_TIMES = 4
"""An archive may unpack to the first, and to so many times its own size: weights hardly shrink."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

ARCHIVE_ERRORS = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, NotImplementedError,
    EOFError, OSError, ValueError, OverflowError, RuntimeError, KeyError, IndexError,
)  # fmt: skip
"""What Python's zipfile raises for files that are damaged or of another kind."""


def open_regular(path: Path, limit: float, what: str) -> io.BufferedReader:
    """Open a file for reading; only a regular one, which never blocks, of limited size.

    Args:
        path: of the file. Links are followed.
        limit: of its size, in bytes.
        what: is expected there, for the error message: "JSON".

    Raises:
        InputError: "expected JSON in run/config.json, got: a named pipe".
    """
    try:
        _require_regular(path.stat(), limit)  # before it is opened, which devices notice
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            _require_regular(os.fstat(number), limit)  # again, as it may be another one now
            return open(number, "rb")  # noqa: PTH123  (of a descriptor, for the caller)
        except BaseException:
            os.close(number)
            raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"expected {what} in {path}, got: {reason}") from error


def read_bytes(path: Path, limit: float, what: str) -> bytes:
    """The content of a regular file of limited size.

    Args:
        path: of the file.
        limit: of its size, in bytes.
        what: is expected there.

    Raises:
        InputError: as `open_regular`, or if it cannot be read.
    """
    with open_regular(path, limit, what) as file:
        try:
            return file.read(os.fstat(file.fileno()).st_size)  # not what is added meanwhile
        except OSError as error:
            raise InputError(f"expected {what} in {path}, got: {error.strerror}") from error


def read_end(path: Path, n_bytes: int) -> bytes:
    """The last bytes of a regular file of any size; none if it cannot be read."""
    try:
        with open_regular(path, float("inf"), "text") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - n_bytes, 0))
            return file.read(n_bytes)
    except (OSError, InputError):
        return b""


def read_json(path: Path, limit: float = JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file, which is UTF-8.

    Args:
        path: of the file.
        limit: of its size, in bytes.

    Raises:
        InputError: if there is none, or one that is too large or nested too deeply.
    """
    content = read_bytes(path, limit, "JSON")
    try:
        value = parse_json(content)
    except InputError as error:
        raise InputError(f"expected JSON in {path}, got: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"expected a JSON object in {path}, got {type(value).__name__}")
    return value


def parse_json(content: bytes) -> Any:
    """The value of a JSON text in UTF-8, nested at most 64 deep, with integers that floats reach.

    Of keys that occur twice the last one counts, and NaN and infinities are numbers, as in Python.

    Raises:
        InputError: for anything else; says what came.
    """
    try:
        value = json.loads(content.decode("utf-8"), parse_int=_integer)
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:  # of JSON or of UTF-8
        raise InputError(str(error)) from error
    level = [value]
    for _ in range(JSON_DEPTH):
        level = [item for one in level if isinstance(one, dict | list) for item in _items(one)]
        if not level:
            return value
    raise _too_deep()


def _items(value: dict[str, Any] | list[Any]) -> Any:
    return value.values() if isinstance(value, dict) else value


def _too_deep() -> InputError:
    return InputError(f"values nested more than {JSON_DEPTH} deep")


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _DIGITS:
        raise InputError(f"an integer of {len(text)} digits")
    return int(text)


def open_archive(content: bytes) -> zipfile.ZipFile:
    """A zip file whose members can be unpacked within bounds.

    Raises:
        InputError: if it is none, or unpacks to much more than its size; says what came.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        members = archive.infolist()
    except ARCHIVE_ERRORS as error:
        raise InputError(_one_line(error)) from error
    if any(one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for one in members):
        raise InputError("a zip file of another compression than deflate")  # whose chunks may burst
    limit = max(_UNPACKED_BYTES, _UNPACKED_TIMES * len(content))
    unpacked = sum(one.file_size for one in members)
    if unpacked > limit:
        raise InputError(
            f"a zip file of {size_in_words(len(content))} that unpacks to "
            f"{size_in_words(unpacked)}, more than {size_in_words(limit)}"
        )
    return archive


def read_member(archive: zipfile.ZipFile, name: str, limit: float) -> bytes:
    """The content of a zip file's member of limited size.

    Args:
        archive: from `open_archive`.
        name: of the member.
        limit: of its size, in bytes.

    Raises:
        InputError: if it is missing, damaged or larger; says what came.
    """
    parts, n_bytes = [], 0
    try:
        with archive.open(name) as file:
            while part := file.read(MEGABYTE):  # its size in the listing may be wrong
                parts.append(part)
                n_bytes += len(part)
                if n_bytes > limit:
                    raise InputError(f"a {name} of more than {size_in_words(limit)}")
    except InputError:
        raise
    except ARCHIVE_ERRORS as error:
        raise InputError(_one_line(error)) from error
    return b"".join(parts)


def size_in_words(n_bytes: float) -> str:
    """A size such as "16 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def _one_line(error: Exception) -> str:
    """What an error of a library says, without its quotes around missing keys."""
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(said).split()) or type(error).__name__


def _require_regular(details: os.stat_result, limit: float) -> None:
    for is_kind, name in _KINDS:
        if is_kind(details.st_mode):
            raise OSError(0, name)
    if details.st_size > limit:
        got, most = size_in_words(details.st_size), size_in_words(limit)
        raise OSError(0, f"{got}, more than the {most} that it may have")
