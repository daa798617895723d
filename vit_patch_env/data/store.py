"""A file of decoded images in the cache: filled once, then read row by row."""

import os
import sys
import time
import zlib
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vit_patch_env.checks import InputError
from vit_patch_env.reading import read_bytes
from vit_patch_env.system.cache import ABOUT, Descriptor, lock_path, lock_shared, require_file
from vit_patch_env.system.files import remove_partial, replacing

EMPTY, DECODED, GREY = range(3)
"""States of a row; the channels of a grey image are the same."""

_ROW = np.dtype(
    [
        ("key", "S32"),
        ("state", "u1"),
        ("checksum", "<u4"),
        ("sum", "<i8", 4),
        ("sum_of_squares", "<i8", 4),
    ]
)
_SIZES = np.dtype([("row_bytes", "<u8"), ("shape", "<u4", 3)])
_MAGIC = b"vit-patch-env images 2\n"
_MAGIC_WITHOUT_SIZES = b"vit-patch-env images 1\n"
_INDEX_BYTES = 2e9
"""Of an index: that of 20 million images."""

_SILENT_WAIT = 2.0
"""Seconds of waiting for another process before that is said."""

_SAVE_EVERY = 10.0
"""Seconds of decoding that a killed process may lose."""


class Store:
    """Decoded images of one shape in a file, each found by a key.

    `pixels` holds one image after another; `index` has a row for each: its key, state, checksum,
    and the sums of its pixel values. The index is written atomically, after the pixels it refers
    to, so that interrupted decoding continues where it stopped. Rows are only added: other
    processes may be reading the existing ones, and hold a lock that keeps them from being removed.
    Call `load` before anything else, with the lock held.

    Args:
        folder: of the files, made when needed; its lock is beside it.
        shape: (channels, height, width) of every image, at most 4 channels.
        about: where the images come from, for `vit-patch cache`.
        temporary: whether the images are for this object only, and nothing of them is left.

    Raises:
        OSError: if the folder cannot be made, read or written.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int, int],
        about: str = "",
        *,
        temporary: bool = False,
    ) -> None:
        self.folder = folder
        self.shape = shape
        self.about = about
        self.row_bytes = int(np.prod(shape))
        self.temporary = temporary
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(lock_path(folder))
        with self.locked():
            self._open()  # raises what `load` would, and keeps others from removing it

    @property
    def _sizes(self) -> bytes:
        """What an index says of all rows."""
        return np.array((self.row_bytes, self.shape), dtype=_SIZES).tobytes()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock for adding and writing rows; says so if another process has it for long."""
        try:
            self._lock.acquire(timeout=_SILENT_WAIT)
        except Timeout:
            waiting = f"waiting for another process that decodes images of {self.about}"
            tqdm.write(waiting, file=sys.stderr)
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def clear(self) -> None:
        """Start over with new files; processes that read the old ones are not affected.

        Hold the lock.
        """
        for name in ("index", "pixels"):
            (self.folder / name).unlink(missing_ok=True)
        self.load()

    def load(self) -> None:
        """Read the index; one that is missing or damaged is that of an empty store.

        Hold the lock. The files are opened again, as another process may have replaced them.
        """
        self._open()
        self._index = _read_index(self.folder / "index", self._sizes)
        self._index["state"][~_plausible(self._index, self.shape)] = EMPTY
        n_whole = os.fstat(self._pixels).st_size // self.row_bytes
        lost = np.arange(len(self._index)) >= n_whole  # of a file that was truncated
        self._index["state"][lost] = EMPTY
        self._row_of = {key: row for row, key in enumerate(self._index["key"].tolist())}
        self._verified = np.zeros(len(self._index), dtype=np.bool_)
        self._saved = time.monotonic()

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / ABOUT
        for path in (about, self.folder / "pixels"):
            require_file(path)
        about.write_text(self.about, encoding="utf-8")  # its time is that of the last use
        self._in_use = Descriptor(about)
        lock_shared(self._in_use.number)
        self._file = Descriptor(self.folder / "pixels")
        self._pixels = self._file.number
        if self.temporary:
            (self.folder / "pixels").unlink()

    @property
    def keys(self) -> Set[bytes]:
        """The keys of all rows."""
        return self._row_of.keys()

    def rows(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """The row of each key (32 letters), added where it is missing."""
        new = [key for key in dict.fromkeys(keys) if key not in self._row_of]
        added = np.zeros(len(new), dtype=_ROW)
        added["key"] = new
        first = len(self._index)
        self._index = np.concatenate((self._index, added))
        self._verified = np.concatenate((self._verified, np.zeros(len(new), dtype=np.bool_)))
        self._row_of.update({key: first + position for position, key in enumerate(new)})
        return np.array([self._row_of[key] for key in keys], dtype=np.int64)

    def states(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """`EMPTY`, `DECODED` or `GREY` for each row."""
        states: NDArray[np.uint8] = self._index["state"][rows]
        return states

    def put(self, row: int, image: NDArray[np.uint8]) -> None:
        """Write an image. Threads may do so at once.

        Raises:
            OSError: if the disk is full.
        """
        record = self._index[row : row + 1]
        content = np.ascontiguousarray(image).data.cast("B")
        start = int(row) * self.row_bytes
        written = 0
        while written < self.row_bytes:
            written += os.pwrite(self._pixels, content[written:], start + written)
        values = image.reshape(self.shape[0], -1)
        record["checksum"] = zlib.crc32(content)
        record["sum"][0, : self.shape[0]] = values.sum(axis=1, dtype=np.int64)
        squares = np.square(values, dtype=np.uint16)
        record["sum_of_squares"][0, : self.shape[0]] = squares.sum(axis=1, dtype=np.int64)
        record["state"] = GREY if (values == values[0]).all() else DECODED

    def repair(self, row: int, image: NDArray[np.uint8]) -> None:
        """Write the image of a damaged row again; the index is right and may be another's now."""
        self.put(row, image)
        self._verified[row] = True

    def save(self, *, now: bool = True) -> None:
        """Write the index, unless it was written less than ten seconds ago and not `now`.

        Hold the lock since `load`.
        """
        if self.temporary or (not now and time.monotonic() - self._saved < _SAVE_EVERY):
            return
        os.fsync(self._pixels)
        remove_partial(self.folder)
        with replacing(self.folder / "index") as partial:
            content = self._sizes + self._index.tobytes()
            partial.write_bytes(_MAGIC + zlib.crc32(content).to_bytes(4, "little") + content)
        self._saved = time.monotonic()

    def read(self, rows: NDArray[np.int64]) -> tuple[Tensor, list[int]]:
        """The images (n_rows, channels, height, width) uint8, and the positions of damaged ones.

        A row is compared with its checksum when it is read for the first time.
        """
        images = torch.empty(len(rows), *self.shape, dtype=torch.uint8, device="cpu")
        damaged = []
        content = images.view(-1).numpy().data
        for position, row in enumerate(rows.tolist()):
            buffer = content[position * self.row_bytes : (position + 1) * self.row_bytes]
            n_read = _read_into(buffer, self._pixels, row * self.row_bytes)
            if not self._verified[row]:
                whole = n_read == self.row_bytes
                if whole and self._is_of_row(images[position], buffer, row):
                    self._verified[row] = True
                else:
                    damaged.append(position)
        return images, damaged

    def _is_of_row(self, image: Tensor, content: memoryview, row: int) -> bool:
        """Whether an image has the checksum of its row and is grey if the row says so."""
        if zlib.crc32(content) != self._index["checksum"][row]:
            return False
        return self._index["state"][row] != GREY or bool((image == image[0]).all())

    def prefetch(self, rows: NDArray[np.int64]) -> None:
        """Let the system read rows ahead, where it can."""
        advise = getattr(os, "posix_fadvise", None)
        if advise is not None:
            for row in rows.tolist():
                start = row * self.row_bytes
                advise(self._pixels, start, self.row_bytes, os.POSIX_FADV_WILLNEED)

    def contents(self, rows: NDArray[np.int64]) -> list[bytes]:
        """For each row, what images of the same pixels have in common, and hardly any others."""
        records = self._index[rows]
        numbers = np.column_stack(
            (records["checksum"].astype(np.int64), records["sum"], records["sum_of_squares"])
        )
        return [row.tobytes() for row in numbers]

    def channel_sums(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sums of the pixel values of these rows, and of their squares: (channels,) each."""
        records = self._index[rows]
        channels = self.shape[0]
        return (
            records["sum"].sum(axis=0)[:channels],
            records["sum_of_squares"].sum(axis=0)[:channels],
        )


def _read_into(buffer: memoryview, descriptor: int, start: int) -> int:
    """Fill a buffer from a file, and return the number of bytes read."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], start)
    content = os.pread(descriptor, len(buffer), start)
    buffer[: len(content)] = content
    return len(content)


def _read_index(path: Path, sizes: bytes) -> NDArray[np.void]:
    """The rows of an index of images of these sizes; none if it is missing, damaged or of others.

    Those of earlier versions do not say what sizes they are of.
    """
    nothing = np.zeros(0, dtype=_ROW)
    try:
        content = read_bytes(path, _INDEX_BYTES, "an index of images")
    except InputError:
        return nothing
    start = len(_MAGIC) + 4
    magic, checksum, body = content[: len(_MAGIC)], content[len(_MAGIC) : start], content[start:]
    if zlib.crc32(body) != int.from_bytes(checksum, "little"):
        return nothing
    if magic == _MAGIC and body.startswith(sizes):
        body = body[len(sizes) :]
    elif magic != _MAGIC_WITHOUT_SIZES:
        return nothing
    if len(body) % _ROW.itemsize:
        return nothing
    return np.frombuffer(body, dtype=_ROW).copy()


def _plausible(rows: NDArray[np.void], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Which rows can be of images of a shape: (n_rows,) bool.

    Sums are in range and none beyond the channels; those of grey images are equal.
    """
    channels, height, width = shape
    sums, squares = rows["sum"], rows["sum_of_squares"]
    largest, grey = 255 * height * width, rows["state"] == GREY
    possible = rows["state"] <= GREY
    for values, most in ((sums, largest), (squares, 255 * largest)):
        possible &= ((values >= 0) & (values <= most)).all(axis=1)
        possible &= (values[:, channels:] == 0).all(axis=1)
        possible &= ~grey | (values[:, :channels] == values[:, :1]).all(axis=1)
    return possible
