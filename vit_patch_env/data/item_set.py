"""The items of one data set: their labels, and their images or what is known of them."""

from collections.abc import Iterator, Sequence
from itertools import tee
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vit_patch_env.checks import InputError, counted, named
from vit_patch_env.data.images import UNTRAINED, Request, digests
from vit_patch_env.data.item_reader import ItemReader, Items
from vit_patch_env.data.items import ItemError, Label, n_items
from vit_patch_env.data.labels import known_labels
from vit_patch_env.data.resize import Form
from vit_patch_env.patches.grid import size_text
from vit_patch_env.system.memory import check_fits

Numbers = NDArray[np.int64]
"""Indices into a data set."""

_AT_ONCE = 64
"""Items of a request, which has random numbers of its own, whoever reads it."""


class Facts:
    """What is kept of images that are not.

    Args:
        n: how many there are.

    Attributes:
        n_channels: 1 for a grey image, otherwise 3: (n,) int64.
        sums: of each channel's pixel values: (n, 3) int64, the same for each channel of a grey one.
        sums_of_squares: the same of their squares.
        digests: see `images.digests`.
    """

    def __init__(self, n: int) -> None:
        self.n_channels = np.ones(n, dtype=np.int64)
        self.sums = np.zeros((n, 3), dtype=np.int64)
        self.sums_of_squares = np.zeros((n, 3), dtype=np.int64)
        self.digests = [0] * n

    def put(self, rows: NDArray[np.int64], images: Tensor) -> None:
        """Note those of images (n_rows, channels, height, width)."""
        values = images.flatten(2).numpy()
        self.n_channels[rows] = images.shape[1]
        self.sums[rows] = values.sum(axis=2, dtype=np.int64)
        self.sums_of_squares[rows] = np.square(values, dtype=np.uint16).sum(axis=2, dtype=np.int64)
        for row, digest in zip(rows.tolist(), digests(images), strict=True):
            self.digests[row] = digest


class ItemSet:
    """The items of a data set.

    Args:
        dataset: map-style.
        where: the data set in messages, such as "the training set".
        form: what images become.
        skip_corrupt: leave out items that cannot be used.
        num_workers: as of `ItemReader`.

    Attributes:
        dataset: as the argument.
        where: as the argument.
        labels: of each item; None for those that are not known, as the item has not been read, or
            cannot be used.
        facts: on images that were read and are not in memory, by row.
        is_read: whether items have been read.
        streamed: whether they are not kept in memory.

    Raises:
        ValueError: as `ItemReader`, `n_items` and `known_labels`.
    """

    def __init__(
        self,
        dataset: Any,
        where: str,
        form: Form,
        *,
        skip_corrupt: bool = False,
        num_workers: int = 0,
    ) -> None:
        self.dataset = dataset
        self.where = where
        self._form = form
        self._skip_corrupt = skip_corrupt
        self._reader = ItemReader(
            dataset, where, form, skip_corrupt=skip_corrupt, num_workers=num_workers
        )
        n = n_items(dataset, where)
        known = known_labels(dataset, where)
        self.labels: list[Label | None] = [None] * n if known is None else list(known)
        self._row_of = np.full(n, -1, dtype=np.int64)
        self._images = torch.empty(0, 0, *form.size, dtype=torch.uint8, device="cpu")
        self.facts = Facts(0)
        self.is_read = self.streamed = False

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, numbers: Numbers) -> NDArray[np.int64]:
        """For each item, the row of what was read of it; -1 if it was not, or cannot be used."""
        rows: NDArray[np.int64] = self._row_of[numbers]
        return rows

    def read(self, numbers: Numbers, *, keep: bool) -> None:
        """Read items; their images stay in memory, or facts about them.

        Raises:
            ValueError: for an item that cannot be used, unless such are left out; for one whose
                label is another than was known; or if the images do not fit into memory.
        """
        order = np.argsort(numbers)  # the data set's order, in which files are read fastest
        self.is_read, self.streamed = True, not keep
        if self.streamed:
            self.facts = Facts(len(numbers))
        problem = ""
        for start, items in self._read_in_turn(numbers[order]):
            problem = problem or next(iter(items.problems.values()), "")
            if problem and not self._skip_corrupt:
                raise ItemError(problem)
            rows = order[start + items.places]
            self._check_labels(numbers[rows], items.labels)
            for number, label in zip(numbers[rows].tolist(), items.labels, strict=True):
                self.labels[number] = label
            self._row_of[numbers[rows]] = rows
            if keep:
                self._put(rows, items.images, len(numbers))
            else:
                self.facts.put(rows, items.images)
        if len(numbers) and (self._row_of[numbers] < 0).all():
            raise ItemError(problem)

    def _read_in_turn(self, numbers: Numbers) -> Iterator[tuple[int, Items]]:
        """What is read of these items, part by part, and where each part begins."""
        starts = range(0, len(numbers), _AT_ONCE)
        requests = (
            Request(numbers[start : start + _AT_ONCE], UNTRAINED, part)
            for part, start in enumerate(starts)
        )
        with tqdm(total=len(numbers), desc="reading images", unit=" images", disable=None) as shown:
            for start, items in zip(starts, self._reader.read(requests), strict=True):
                yield start, items
                shown.update(min(_AT_ONCE, len(numbers) - start))

    def _put(self, rows: NDArray[np.int64], images: Tensor, n: int) -> None:
        """Keep images in rows of a tensor that gets three channels with the first one in colour."""
        n_channels = images.shape[1]
        if len(images) and n_channels > self._images.shape[1]:
            size = size_text(self._form.image_size)
            purpose = f"{counted(n, 'image')} of {named('image_size')} {size}"
            check_fits(n * n_channels * self._form.n_pixels, purpose)
            shape = n, n_channels, *self._form.size
            grown = torch.empty(shape, dtype=torch.uint8, device="cpu")
            self._images = grown.copy_(self._images) if self._images.shape[1] else grown
        self._images[torch.from_numpy(rows)] = images

    def _check_labels(self, numbers: Numbers, labels: Sequence[Label]) -> None:
        for number, label in zip(numbers.tolist(), labels, strict=True):
            known = self.labels[number]
            if known is not None and label != known:
                raise InputError(
                    f"expected the label {known!r}, as listed by the data set, in item {number} of "
                    f"{self.where}, got {label!r}"
                )

    def take(self, parts: Sequence[Numbers]) -> list[Tensor]:
        """The images in memory of items that were read, part by part; they can be taken once.

        The parts share the memory that the images were read into.
        """
        images, self._images = self._images, self._images[:0].clone()
        rows = self._row_of[np.concatenate(parts)]
        _bring_to_front(images, rows)
        taken = images[: len(rows)]
        if 2 * len(rows) < len(images):
            taken = taken.clone()  # so that the others are freed
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return list(taken.tensor_split(ends.tolist()))

    def batch(self, request: Request) -> Tensor:
        """The images of requested items, read again by this process.

        Raises:
            ValueError: for an item that cannot be used any more, or has another label.
        """
        return self._checked(request, self._reader[request])

    def batches(self, requests: Iterator[Request]) -> Iterator[Tensor]:
        """The images of each request, read again; workers read ahead.

        Raises:
            ValueError: as `batch`.
        """
        requests, asked = tee(requests)
        for request, items in zip(asked, self._reader.read(requests), strict=False):
            yield self._checked(request, items)

    def _checked(self, request: Request, items: Items) -> Tensor:
        if items.problems:
            raise ItemError(next(iter(items.problems.values())))
        self._check_labels(request.indices, items.labels)
        return items.images


def _bring_to_front(images: Tensor, rows: NDArray[np.int64]) -> None:
    """Order images in place, so that image i is the one that was in row rows[i]; none is lost."""
    pixels = images.numpy()
    held = np.empty_like(pixels[:1])
    for row, wanted in enumerate(rows.tolist()):
        source = wanted
        while source < row:  # it has made room for another
            source = int(rows[source])
        if source != row:
            held[:] = pixels[row]
            pixels[row] = pixels[source]
            pixels[source] = held[0]
