"""Folders of images: listed first, decoded once into the cache, in memory or read when needed."""

import hashlib
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vit_patch_env.data.decoding import Decoded, decoder
from vit_patch_env.data.images import Images, Indices, at
from vit_patch_env.data.layouts import Layout, find_layout
from vit_patch_env.data.pictures import SUFFIXES, read_picture
from vit_patch_env.data.sources import Parts, Positions, Source, where_to_keep
from vit_patch_env.data.store import DECODED, EMPTY, Store
from vit_patch_env.names import ImagesName, ResizeName
from vit_patch_env.system.cache import IMAGES, make_room
from vit_patch_env.system.limits import available_cpus
from vit_patch_env.system.memory import check_fits
from vit_patch_env.system.shown import escaped

_AT_ONCE = 512
"""Files between two checks whether to save the index."""

_PER_TASK = 16
"""Files that a thread decodes one after the other."""


class FolderSource(Source):
    """Pictures in folders, decoded once into a store in the cache.

    Args:
        root: of the folders, see `find_layout`.
        image_size: height and width, in pixels.
        resize: how pictures become squares.
        cache: folder for decoded images.
        skip_corrupt: skip files that cannot be decoded, with a warning that names them.

    Raises:
        ValueError: for folders from which no splits can be made.
    """

    def __init__(
        self,
        root: Path,
        image_size: int,
        cache: Path,
        *,
        resize: ResizeName = "crop",
        skip_corrupt: bool = False,
    ) -> None:
        layout = find_layout(root, SUFFIXES)
        listings = [part for part in (layout.train, layout.val, layout.test) if part is not None]
        self.paths = [path for listing in listings for path in listing.paths]
        super().__init__(
            np.concatenate([listing.labels for listing in listings]),
            _parts(layout),
            layout.classes,
            flip=True,
            notes=layout.notes,
        )
        self.root = root
        self.image_size = image_size
        self.resize = resize
        self.skip_corrupt = skip_corrupt
        self.cache = cache
        self._store: Store | None = None
        self._rows = np.full(len(self.paths), -1, dtype=np.int64)
        self._prepared = np.zeros(0, dtype=np.int64)
        self._keys: list[bytes] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None}  # rows are found again by their keys

    def prepare(self, positions: Positions) -> NDArray[np.bool_]:
        """Decode the images at these positions that are not in the store; which can be read.

        Raises:
            ValueError: naming the first file that cannot be read, unless such are skipped.
        """
        keys = _keys(self.root, self.paths)
        self._store = store = self._new_store()
        with store.locked():
            store.load()
            if len(store.keys - set(keys)) > len(store.keys) // 2:
                store.clear()  # most of it is of files that are gone
            self._rows = store.rows(keys)
            missing = np.sort(positions[store.states(self._rows[positions]) == EMPTY])
            if len(missing):
                if not store.temporary:
                    make_room(self.cache, len(missing) * store.row_bytes, keep=store.folder)
                self._decode(store, missing)
        self._keys = keys
        self._prepared = positions
        readable: NDArray[np.bool_] = store.states(self._rows[positions]) == DECODED
        if not readable.all():
            names = [escaped(self.paths[position]) for position in positions[~readable]]
            warnings.warn(
                f"{len(names)} of {len(positions)} images cannot be read and are skipped: "
                + ", ".join(sorted(names)),
                stacklevel=2,
            )
        return readable

    def read(self, positions: Sequence[Positions], images: ImagesName) -> list[Images]:
        """The images at each of the positions, in memory or as `StoredImages`."""
        store = self._open_store()
        self.notes += self._duplicates(*positions)
        n_images = sum(len(part) for part in positions)
        n_bytes = n_images * store.row_bytes
        kept = where_to_keep(images, n_bytes)
        stored = [StoredImages(self, part) for part in positions]
        if kept == "stream":
            self.notes.append(
                f"{n_images:,} images of {self.image_size} x {self.image_size} pixels "
                f"({n_bytes / 1e9:.1f} GB) are read from {store.folder} batch by batch"
            )
            return list(stored)
        check_fits(n_bytes, f"{n_images} images of image_size {self.image_size}")
        return [part[:] for part in stored]

    def read_rows(self, positions: Positions) -> Tensor:
        """The images at these positions; one that was damaged in the cache is decoded again."""
        store = self._open_store()
        images, damaged = store.read(self._rows[positions])
        for index in damaged:
            picture = read_picture(self.paths[positions[index]], self.image_size, self.resize)
            store.repair(self._rows[positions[index]], picture)
            images[index] = torch.from_numpy(picture)
        return images

    def prefetch(self, positions: Positions) -> None:
        """Let the system read these images ahead."""
        self._open_store().prefetch(self._rows[positions])

    def channel_sums(self, positions: Positions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sums of the pixel values of these images, and of their squares: (channels,) each."""
        return self._open_store().channel_sums(self._rows[positions])

    def _duplicates(self, train: Positions, val: Positions, test: Positions) -> list[str]:
        """A note on images that are tested on and trained on, if there are any."""
        contents = self._open_store().contents
        trained = np.concatenate((train, val))
        first = dict(zip(contents(self._rows[trained]), trained.tolist(), strict=True))
        pairs = [
            (position, first[content])
            for position, content in zip(test.tolist(), contents(self._rows[test]), strict=True)
            if content in first
        ]
        if not pairs:
            return []
        one, other = (escaped(self.paths[position]) for position in pairs[0])
        return [
            f"{len(pairs):,} of {len(test):,} test images are also training images, such as {one} "
            f"and {other}"
        ]

    def _open_store(self) -> Store:
        """The store with the prepared images, which is opened again in another process.

        Raises:
            ValueError: if files have changed since.
        """
        if self._store is None:
            known = [self._keys[position] for position in self._prepared]
            self.prepare(self._prepared)
            if [self._keys[position] for position in self._prepared] != known:
                raise ValueError(
                    f"expected the files that a run uses not to change, got others in {self.root}"
                )
        assert self._store is not None
        return self._store

    def _new_store(self) -> Store:
        """The store of this folder; a temporary one where the cache cannot be used."""
        root = self.root.resolve()
        digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
        shape = (3, self.image_size, self.image_size)
        name = f"{digest}-{self.image_size}-{self.resize}"
        try:
            return Store(self.cache / IMAGES / name, shape, about=escaped(root))
        except OSError as error:
            folder = Path(tempfile.mkdtemp(prefix="vit-patch-env-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            warnings.warn(
                f"decoded images cannot be cached in {self.cache}, only for this run in "
                f"{folder}: {error}",
                stacklevel=2,
            )
            return Store(folder, shape, temporary=True)

    def _decode(self, store: Store, missing: Positions) -> None:
        """Decode the images at these positions into the store.

        Raises:
            ValueError: naming a file that cannot be read, unless such are skipped, or a full disk.
        """
        n_workers = available_cpus()
        shown = tqdm(total=len(missing), desc="decoding images", unit=" images", disable=None)
        try:
            with (
                shown,
                decoder(len(missing), n_workers, self.image_size, self.resize) as decode,
                ThreadPoolExecutor(n_workers) as threads,
            ):
                for start in range(0, len(missing), _AT_ONCE):
                    parts = _divided(missing[start : start + _AT_ONCE])
                    paths = [[self.paths[position] for position in part] for part in parts]
                    for part, images in zip(parts, threads.map(decode, paths), strict=True):
                        self._put(store, part, images)
                        shown.update(len(part))
                    store.save(now=False)
            store.save()
        except BaseException as error:
            with suppress(OSError):
                store.save()
            if not isinstance(error, OSError):
                raise
            raise ValueError(
                f"expected {len(missing) * store.row_bytes / 1e9:.1f} GB for decoded images in "
                f"{store.folder}, got: {error.strerror}; XDG_CACHE_HOME names another place"
            ) from error

    def _put(self, store: Store, positions: Positions, images: Sequence[Decoded]) -> None:
        """Write decoded images; the next run tries those again that are skipped.

        Raises:
            ValueError: for one that cannot be read, unless such are skipped.
        """
        for position, image in zip(positions, images, strict=True):
            if not isinstance(image, str):
                store.put(self._rows[position], image)
            elif not self.skip_corrupt:
                raise ValueError(image)


class StoredImages:
    """Images of a folder that are read from the store when they are indexed.

    Args:
        source: of the images.
        positions: of these images in it.
    """

    def __init__(self, source: FolderSource, positions: Positions) -> None:
        self._source = source
        self._positions = positions
        self.shape = torch.Size((len(positions), 3, source.image_size, source.image_size))

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, indices: Indices) -> Tensor:
        """The images at these indices, in that order."""
        return self._source.read_rows(at(self._positions, indices))

    def prefetch(self, indices: Indices) -> None:
        """Let the system read images ahead that will be wanted next."""
        self._source.prefetch(at(self._positions, indices))

    def channel_sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `images.channel_sums`, from the sums of each image."""
        return self._source.channel_sums(self._positions)


def _divided(positions: Positions) -> list[Positions]:
    """Parts for threads, not too small, as handing them over takes time."""
    return np.split(positions, range(_PER_TASK, len(positions), _PER_TASK))


def _parts(layout: Layout) -> Parts:
    """Positions of each listing's files, one listing after the other."""
    start, parts = 0, []
    for listing in (layout.train, layout.val, layout.test):
        n_files = 0 if listing is None else len(listing.paths)
        parts.append(None if listing is None else np.arange(start, start + n_files))
        start += n_files
    train, val, test = parts
    assert train is not None
    return Parts(train, val, test)


def _keys(root: Path, paths: Sequence[str]) -> list[bytes]:
    """A key for each file: of its path below the root, size, modification time and inode.

    Raises:
        ValueError: for a file that is gone.
    """
    start = len(os.fspath(root)) + 1
    keys = []
    for path in paths:
        try:
            stat = os.stat(path)  # noqa: PTH116  (half the time of Path.stat, over 60,000 files)
        except OSError as error:
            raise ValueError(
                f"expected a readable image, got {escaped(path)}: {error.strerror}"
            ) from error
        digest = hashlib.blake2b(os.fsencode(path[start:]), digest_size=16)
        digest.update(b"\0%d %d %d" % (stat.st_size, stat.st_mtime_ns, stat.st_ino))
        keys.append(digest.hexdigest().encode())
    return keys
