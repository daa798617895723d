"""Images of torch data sets: each item read once, or again whenever it is in a batch."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.checks import InputError, counted
from vit_patch_env.data.images import UNTRAINED, Images, Indices, Request, at
from vit_patch_env.data.item_set import ItemSet, Numbers
from vit_patch_env.data.resize import Form
from vit_patch_env.data.sources import Parts, Positions, Source, warn_skipped, where_to_keep
from vit_patch_env.names import ImagesName


class DatasetSource(Source):
    """The items of data sets.

    Args:
        sets: the data sets.
        numbers: for each, those of its items that can be used, as far as is known.
        labels: of these, one set after the other.
        parts: as of any source; each of one set.
        classes: as of any source.
        form: what images become.
        flip: as of any source.
        notes: as of any source.
    """

    def __init__(
        self,
        sets: Sequence[ItemSet],
        numbers: Sequence[Numbers],
        labels: NDArray[np.int64],
        parts: Parts,
        classes: tuple[str, ...],
        form: Form,
        *,
        flip: bool,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(labels, parts, classes, flip=flip, notes=notes)
        self._sets = sets
        self._set_of = np.repeat(np.arange(len(sets)), [len(part) for part in numbers])
        self._numbers = np.concatenate(numbers)
        self._form = form
        self._streamed = False

    def name(self, position: int) -> str:
        """The number of an item in its data set."""
        where = self._sets[self._set_of[position]].where
        return f"item {self._numbers[position]} of {where}"

    def path_or_number(self, position: int) -> str:
        """The number of an item in its data set."""
        return str(self._numbers[position])

    def prepare(self, positions: Positions, images: ImagesName) -> NDArray[np.bool_]:
        """Read the items at these positions; which can be used: (n,) bool.

        Raises:
            ValueError: as `ItemSet.read`.
        """
        read = [items for items in self._sets if items.is_read]
        n_bytes = 3 * len(positions) * self._form.n_pixels
        streamed = read[0].streamed if read else where_to_keep(images, n_bytes) == "stream"
        usable = np.zeros(len(positions), dtype=np.bool_)
        for number, items in enumerate(self._sets):
            here = self._set_of[positions] == number
            numbers = self._numbers[positions[here]]
            if not items.is_read:
                items.read(numbers, keep=not streamed)
            usable[here] = items.rows(numbers) >= 0
        warn_skipped([self.name(position) for position in positions[~usable]], len(positions))
        if streamed:
            self.notes.append(
                f"{counted(len(positions), 'image')} ({n_bytes / 1e9:.1f} GB) are read from the "
                "data set again in every batch"
            )
        self._streamed = streamed
        return usable

    def read(self, positions: Sequence[Positions], images: ImagesName) -> list[Images]:
        """The images at each of the positions, in memory or as `DatasetImages`."""
        del images  # decided when they were prepared
        if self._streamed:
            return self._streams(positions)
        taken: dict[int, Tensor] = {}
        for number, items in enumerate(self._sets):
            parts = [index for index, part in enumerate(positions) if self._set(part) == number]
            numbers = [self._numbers[positions[index]] for index in parts]
            taken.update(zip(parts, items.take(numbers), strict=True))
        n_channels = max(part.shape[1] for part in taken.values())
        return [
            taken[index].expand(-1, n_channels, -1, -1).contiguous()
            for index in range(len(positions))
        ]

    def contents(self, positions: Positions, images: Images) -> Sequence[Hashable]:
        """As `Source.contents`, also of images that are read again in every batch."""
        if not isinstance(images, DatasetImages):
            return super().contents(positions, images)
        return images.digests()

    def _set(self, positions: Positions) -> int:
        """The data set of positions, which are all of one."""
        return int(self._set_of[positions[0]]) if len(positions) else 0

    def _streams(self, positions: Sequence[Positions]) -> list[Images]:
        located = [(self._sets[self._set(part)], self._numbers[part]) for part in positions]
        n_channels = max(
            int(items.facts.n_channels[items.rows(numbers)].max(initial=1))
            for items, numbers in located
        )
        return [DatasetImages(items, numbers, self._form, n_channels) for items, numbers in located]


class DatasetImages:
    """Images of a data set that are read from it when they are indexed.

    Training batches read them with generators seeded for the batch, so that the data set's own
    augmentation differs between epochs and is the same in a resumed run; otherwise they are read
    with generators that are always seeded alike.

    Args:
        items: of the data set; all of these have been read once.
        numbers: of the items.
        form: what images become.
        n_channels: 1, or 3: grey images then become RGB.
    """

    def __init__(self, items: ItemSet, numbers: Numbers, form: Form, n_channels: int) -> None:
        self._items = items
        self._numbers = numbers
        self.shape = torch.Size((len(numbers), n_channels, *form.size))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, indices: Indices) -> Tensor:
        """The images at these indices, in that order."""
        numbers = at(self._numbers, indices)
        return self._in_channels(self._items.batch(Request(numbers, UNTRAINED, 0)))

    def batches(self, requests: Iterator[Request]) -> Iterator[Tensor]:
        """The images of each request, in turn; workers read ahead.

        Raises:
            ValueError: as `ItemSet.batches`.
        """
        of_items = (
            request._replace(indices=self._numbers[request.indices]) for request in requests
        )
        yield from map(self._in_channels, self._items.batches(of_items))

    def _in_channels(self, images: Tensor) -> Tensor:
        if images.shape[1] > self.shape[1]:
            raise InputError(
                f"expected grey images in {self._items.where}, as all were when they were first "
                "read, got one in colour"
            )
        return images.expand(-1, self.shape[1], -1, -1).contiguous()

    def channel_sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `images.channel_sums`, of the images as they were read at first."""
        rows, n_channels = self._items.rows(self._numbers), self.shape[1]
        facts = self._items.facts
        return (
            facts.sums[rows].sum(axis=0)[:n_channels],
            facts.sums_of_squares[rows].sum(axis=0)[:n_channels],
        )

    def digests(self) -> list[int]:
        """As `images.digests`, of the images as they were read at first."""
        return [self._items.facts.digests[row] for row in self._items.rows(self._numbers).tolist()]
