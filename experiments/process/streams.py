"""Standard output and error that take any text: every character, and also where they are closed."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def usable_streams() -> Iterator[None]:
    r"""Within the block, output does not fail: it is escaped, or ignored, where it cannot be shown.

    A character that the encoding lacks, such as α in ASCII, is written as in Python: `\u03b1`. A
    standard stream that is closed takes everything and shows nothing; this stays after the block if
    its file descriptor was closed, as the next file to be opened would take its place otherwise.
    """
    _open_descriptors()
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    errors = {name: _escape(stream) for name, stream in before.items()}
    with Path(os.devnull).open("w", encoding="utf-8", errors="backslashreplace") as nothing:
        for name, stream in before.items():
            if _is_closed(stream):
                setattr(sys, name, nothing)
        try:
            yield
        finally:
            for name, stream in before.items():
                setattr(sys, name, stream)
                _flush(stream)
                if errors[name] is not None:
                    stream.reconfigure(errors=errors[name])


def _open_descriptors() -> None:
    """Open the standard file descriptors that are closed, for nothing."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != descriptor:  # the lowest that is free, so that it is the same
                os.dup2(nothing, descriptor)
                os.close(nothing)


def _is_closed(stream: Any) -> bool:
    return stream is None or getattr(stream, "closed", False)


def _escape(stream: Any) -> str | None:
    """Let a stream escape what it cannot encode; how it handled that before, or None."""
    if not hasattr(stream, "reconfigure") or _is_closed(stream):  # a notebook's, or None
        return None
    before = str(stream.errors)
    stream.reconfigure(errors="backslashreplace")
    return before


def _flush(stream: Any) -> None:
    """Flush a stream; one whose reader has ended, as `head` does, takes no more."""
    try:
        if not _is_closed(stream):
            stream.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:
            _discard(stream)


def _discard(stream: Any) -> None:
    """Let what a stream still holds go nowhere, so that Python does not fail to write it."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
