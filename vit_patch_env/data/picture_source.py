"""Pictures that are decoded once into the cache, and are in memory or read when needed."""

import hashlib
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

from vit_patch_env.checks import InputError, counted, named
from vit_patch_env.data.decoding import Decoded, Encoded, decode, decoder
from vit_patch_env.data.encoded import Pictures
from vit_patch_env.data.images import Images, Indices, at
from vit_patch_env.data.resize import Form
from vit_patch_env.data.sources import Parts, Positions, Source, warn_skipped, where_to_keep
from vit_patch_env.data.store import EMPTY, GREY, Store
from vit_patch_env.names import ImagesName
from vit_patch_env.patches.grid import size_text
from vit_patch_env.system.cache import IMAGES, make_room
from vit_patch_env.system.limits import available_cpus
from vit_patch_env.system.memory import check_fits

_AT_ONCE = 512
"""Pictures between two checks whether to save the index."""

_PER_TASK = 16
"""Pictures that a thread decodes one after the other."""


class PictureSource(Source):
    """Pictures that are decoded once into a store in the cache.

    Args:
        pictures: of all splits.
        labels: as of any source.
        parts: as of any source.
        classes: as of any source.
        form: what pictures become.
        cache: folder for decoded images.
        skip_corrupt: leave out pictures that cannot be decoded, with a warning that names them.
        flip: as of any source.
        notes: as of any source.

    Attributes:
        n_channels: of the images, once they are prepared.
    """

    def __init__(
        self,
        pictures: Pictures,
        labels: NDArray[np.int64],
        parts: Parts,
        classes: tuple[str, ...],
        form: Form,
        cache: Path,
        *,
        skip_corrupt: bool,
        flip: bool,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(labels, parts, classes, flip=flip, notes=notes)
        self.pictures = pictures
        self.form = form
        self.skip_corrupt = skip_corrupt
        self.cache = cache
        self._store: Store | None = None
        self.n_channels = 3
        self._rows = np.full(len(pictures), -1, dtype=np.int64)
        self._prepared = np.zeros(0, dtype=np.int64)
        self._keys: list[bytes] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None}  # rows are found again by their keys

    def name(self, position: int) -> str:
        """The path of a picture, or its number in its data set."""
        return self.pictures.name(position)

    def path_or_number(self, position: int) -> str:
        """The path of a picture, or its number in its data set."""
        return self.pictures.path_or_number(position)

    def prepare(self, positions: Positions, images: ImagesName = "auto") -> NDArray[np.bool_]:
        """Decode the images at these positions that are not in the store; which can be read.

        Raises:
            ValueError: naming the first picture that cannot be read, unless such are skipped.
        """
        del images  # decoded into the store in any case
        keys = self.pictures.keys()
        self._store = store = self._new_store()
        with store.locked():
            store.load()
            if self.pictures.complete and len(store.keys - set(keys)) > len(store.keys) // 2:
                store.clear()  # most of it is of files that are gone
            self._rows = store.rows(keys)
            missing = np.sort(positions[store.states(self._rows[positions]) == EMPTY])
            if len(missing):
                if not store.temporary:
                    make_room(self.cache, len(missing) * store.row_bytes, keep=store.folder)
                self._decode(store, missing)
        self._keys = keys
        self._prepared = positions
        states = store.states(self._rows[positions])
        readable: NDArray[np.bool_] = states != EMPTY
        grey = self.pictures.may_be_grey and (states[readable] == GREY).all()
        self.n_channels = 1 if grey else 3
        warn_skipped([self.name(position) for position in positions[~readable]], len(positions))
        return readable

    def read(self, positions: Sequence[Positions], images: ImagesName) -> list[Images]:
        """The images at each of the positions, in memory or as `StoredImages`."""
        store = self._open_store()
        n_images = sum(len(part) for part in positions)
        n_bytes = n_images * self.n_channels * self.form.n_pixels
        height, width = self.form.size
        stored = [StoredImages(self, part) for part in positions]
        if where_to_keep(images, n_bytes) == "stream":
            self.notes.append(
                f"{counted(n_images, 'image')} of {height} x {width} pixels ({n_bytes / 1e9:.1f} "
                f"GB) are read from {store.folder} batch by batch"
            )
            return list(stored)
        size = size_text(self.form.image_size)
        check_fits(n_bytes, f"{counted(n_images, 'image')} of {named('image_size')} {size}")
        return [part[:] for part in stored]

    def contents(self, positions: Positions, images: Images) -> list[bytes]:
        """As `Source.contents`, from the checksums and sums of the store."""
        return self._open_store().contents(self._rows[positions])

    def read_rows(self, positions: Positions) -> Tensor:
        """The images at these positions; one that was damaged in the cache is decoded again.

        Raises:
            ValueError: if it cannot be decoded any more.
        """
        store = self._open_store()
        images, damaged = store.read(self._rows[positions])
        for index in damaged:
            (image,) = decode([self.pictures[positions[index]]], *self.form)
            if isinstance(image, str):
                raise InputError(image)
            store.repair(self._rows[positions[index]], image)
            if self.n_channels == 1 and (image != image[0]).any():
                raise InputError(
                    f"expected grey images, as {store.folder} says, got "
                    f"{self.name(int(positions[index]))} in colour: remove that folder"
                )
            images[index] = torch.from_numpy(image)
        return images if self.n_channels == 3 else images[:, :1].contiguous()

    def prefetch(self, positions: Positions) -> None:
        """Let the system read these images ahead."""
        self._open_store().prefetch(self._rows[positions])

    def channel_sums(self, positions: Positions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sums of the pixel values of these images, and of their squares: (channels,) each."""
        sums, squares = self._open_store().channel_sums(self._rows[positions])
        return sums[: self.n_channels], squares[: self.n_channels]

    def _open_store(self) -> Store:
        """The store with the prepared images, which is opened again in another process.

        Raises:
            ValueError: if pictures have changed since.
        """
        if self._store is None:
            known = [self._keys[position] for position in self._prepared]
            self.prepare(self._prepared)
            if [self._keys[position] for position in self._prepared] != known:
                raise InputError(
                    "expected the pictures that a run uses not to change, "
                    f"got others in {self.pictures.about}"
                )
        assert self._store is not None
        return self._store

    def _new_store(self) -> Store:
        """The store of these pictures; a temporary one where the cache cannot be used."""
        digest = hashlib.sha256(self.pictures.origin).hexdigest()[:16]
        shape = (3, *self.form.size)
        size = size_text(self.form.image_size).replace(" ", "")
        name = f"{digest}-{size}-{self.form.resize}"
        if self.form.interpolation != "bilinear":  # as of all images before there was a choice
            name += f"-{self.form.interpolation}"
        try:
            return Store(self.cache / IMAGES / name, shape, about=self.pictures.about)
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
            ValueError: naming a picture that cannot be read, unless such are skipped, or a full
                disk.
        """
        n_workers = available_cpus()
        shown = tqdm(total=len(missing), desc="decoding images", unit=" images", disable=None)
        try:
            with (
                shown,
                decoder(len(missing), n_workers, *self.form) as decode_task,
                ThreadPoolExecutor(n_workers) as threads,
            ):

                def decode_and_put(task: Positions, encoded: Sequence[Encoded]) -> int:
                    self._put(store, task, decode_task(encoded))
                    return len(task)

                for start in range(0, len(missing), _AT_ONCE):
                    tasks = _divided(missing[start : start + _AT_ONCE])
                    encoded = [[self.pictures[position] for position in task] for task in tasks]
                    for n_done in threads.map(decode_and_put, tasks, encoded):
                        shown.update(n_done)
                    store.save(now=False)
            store.save()
        except BaseException as error:
            with suppress(OSError):
                store.save()
            if not isinstance(error, OSError):
                raise
            raise InputError(
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
                raise InputError(image)


class StoredImages:
    """Images that are read from the store when they are indexed.

    Args:
        source: of the images.
        positions: of these images in it.
    """

    def __init__(self, source: PictureSource, positions: Positions) -> None:
        self._source = source
        self._positions = positions
        self.shape = torch.Size((len(positions), source.n_channels, *source.form.size))

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
