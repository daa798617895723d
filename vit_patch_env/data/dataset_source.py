"""Images of torch data sets: each item read once, or again whenever it is in a batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vit_patch_env.checks import ArgumentError
from vit_patch_env.data.generators import seeded_generators
from vit_patch_env.data.images import Images, Indices, at, sums_of_counts
from vit_patch_env.data.items import Label, n_items, read_item
from vit_patch_env.data.labels import (
    TEST_SET,
    TRAINING_SET,
    Numbered,
    class_names,
    known_labels,
    labels_of,
    listed,
    number_labels,
)
from vit_patch_env.data.resize import resize_images
from vit_patch_env.data.sources import Parts, Positions, Source, where_to_keep
from vit_patch_env.names import ImagesName, ResizeName
from vit_patch_env.system.memory import check_fits

VALIDATION_SET = "the validation set"

_CPU = torch.device("cpu")
_GENERATORS = (0,)
"""Seeds of items that are read for anything but training."""


class Form(NamedTuple):
    """What images become."""

    image_size: int
    resize: ResizeName


class Opened(NamedTuple):
    """A data set and the label of each item.

    Attributes:
        dataset: map-style.
        labels: of all items.
        images: all of them, if they had to be read to know the labels and are kept in memory.
        where: the data set in messages, such as "the training set".
    """

    dataset: Any
    labels: list[Label]
    images: Tensor | None
    where: str


def open_dataset(dataset: Any, where: str, form: Form, images: ImagesName) -> Opened:
    """Find the labels of a data set, if possible without reading its images.

    Raises:
        ValueError: as `known_labels`, or for an item that cannot be read.
    """
    labels = known_labels(dataset, where)
    if labels is not None:
        return Opened(dataset, labels, None, where)
    n = n_items(dataset, where)
    if where_to_keep(images, 3 * n * form.image_size**2) == "stream":
        return Opened(dataset, labels_of(dataset, where), None, where)
    with seeded_generators(_GENERATORS, 0, _CPU):
        decoded, labels = _decode(dataset, np.arange(n), form, where)
    return Opened(dataset, labels, decoded, where)


def make_source(
    train: Any,
    val: Any | None,
    test: Any | None,
    classes: Sequence[str] | None,
    form: Form,
    *,
    images: ImagesName,
    flip: bool,
    notes: Sequence[str] = (),
) -> "DatasetSource":
    """A source of the items of map-style data sets.

    Args:
        train: the training set.
        val: the validation set, if there is one.
        test: the test set, if there is one.
        classes: class names by label; None for those of the data sets, or the labels as text.
        form: what images become.
        images: as in `load_dataset`.
        flip: as of any source.
        notes: as of any source.

    Raises:
        ValueError: as `read_item`, `known_labels` and `number_labels`.
    """
    given = ((train, TRAINING_SET), (val, VALIDATION_SET), (test, TEST_SET))
    opened = [
        None if dataset is None else open_dataset(dataset, where, form, images)
        for dataset, where in given
    ]
    return DatasetSource(opened, classes, form, flip=flip, notes=notes)


class DatasetSource(Source):
    """The items of a training set, and of a validation and a test set if there are such.

    Args:
        opened: these three; None for one that is missing.
        classes: as in `make_source`.
        form: what images become.
        flip: as of any source.
        notes: as of any source.
    """

    def __init__(
        self,
        opened: Sequence[Opened | None],
        classes: Sequence[str] | None,
        form: Form,
        *,
        flip: bool,
        notes: Sequence[str] = (),
    ) -> None:
        self.opened = [part for part in opened if part is not None]
        numbered = _number(self.opened[0], self.opened[1:], classes)
        labels = [numbered.train, *([] if numbered.test is None else [numbered.test])]
        self.starts = np.cumsum([0, *(len(part.labels) for part in self.opened)])
        ranges = {
            part.where: np.arange(start, start + len(part.labels))
            for part, start in zip(self.opened, self.starts, strict=False)
        }
        parts = Parts(ranges[TRAINING_SET], ranges.get(VALIDATION_SET), ranges.get(TEST_SET))
        super().__init__(np.concatenate(labels), parts, numbered.classes, flip=flip, notes=notes)
        self.form = form

    def locate(self, positions: Positions) -> tuple[Opened, Positions]:
        """The data set of positions, which are all of one, and their indices in it."""
        first = positions[0] if len(positions) else 0
        number = int(np.searchsorted(self.starts, first, side="right")) - 1
        return self.opened[number], positions - self.starts[number]

    def read(self, positions: Sequence[Positions], images: ImagesName) -> list[Images]:
        """The images at each of the positions, in memory or as `DatasetImages`."""
        n_images = sum(map(len, positions))
        n_bytes = 3 * n_images * self.form.image_size**2
        if where_to_keep(images, n_bytes) == "stream":
            self.notes.append(
                f"{n_images:,} images ({n_bytes / 1e9:.1f} GB) are read from the data set again in "
                "every batch"
            )
            # All are read once now, so that what is wrong is found before training.
            counts = [self._count_values(part) for part in positions]
            n_channels = max(map(len, counts))
            return [
                DatasetImages(self, part, np.broadcast_to(of_part, (n_channels, 256)))
                for part, of_part in zip(positions, counts, strict=True)
            ]
        in_memory = [self._in_memory(*self.locate(part)) for part in positions]
        n_channels = max(part.shape[1] for part in in_memory)
        return [part.expand(-1, n_channels, -1, -1).contiguous() for part in in_memory]

    def _count_values(self, positions: Positions) -> NDArray[np.int64]:
        """For each channel, how many pixels have each value: (1, 256), or (3, 256) in colour."""
        counts = np.zeros((1, 256), dtype=np.int64)
        with seeded_generators(_GENERATORS, 0, _CPU):
            for position in positions.tolist():
                image = self.image(position).numpy()
                of_image = [np.bincount(channel.ravel(), minlength=256) for channel in image]
                counts = counts + np.array(of_image)
        return counts

    def image(self, position: int) -> Tensor:
        """The image (channels, image_size, image_size) at a position, read from the data set."""
        opened, indices = self.locate(np.array([position]))
        return _checked(opened, indices, self.form)[0]

    def _in_memory(self, opened: Opened, indices: Positions) -> Tensor:
        if opened.images is not None:
            return opened.images[indices]
        with seeded_generators(_GENERATORS, 0, _CPU):
            return _checked(opened, indices, self.form, show=True)


class DatasetImages:
    """Images of a data set that are read from it when they are indexed.

    Training batches read them with generators seeded for the batch, so that the data set's own
    augmentation differs between epochs and is the same in a resumed run; otherwise they are read
    with generators that are always seeded alike.

    Args:
        source: of the images.
        positions: of these images in it, all of one data set.
        counts: for each channel, how many pixels have each value: (1, 256) for grey images, or
            (3, 256): grey images then become RGB.
    """

    def __init__(
        self, source: DatasetSource, positions: Positions, counts: NDArray[np.int64]
    ) -> None:
        self._source = source
        self._counts = counts
        self._positions = positions
        size = source.form.image_size
        self.shape = torch.Size((len(positions), len(counts), size, size))

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, indices: Indices) -> Tensor:
        """The images at these indices, in that order."""
        return self.read_seeded(indices, _GENERATORS, 0)

    def read_seeded(self, indices: Indices, seeds: Sequence[int], part: int) -> Tensor:
        """The images at these indices, with random numbers of (seeds, part)."""
        positions = at(self._positions, indices)
        images = torch.empty(len(positions), *self.shape[1:], dtype=torch.uint8, device="cpu")
        with seeded_generators(seeds, part, _CPU):
            for index, position in enumerate(positions.tolist()):
                images[index] = self._source.image(position)
        return images

    def channel_sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `images.channel_sums`, of the images as they are read outside training."""
        return sums_of_counts(self._counts)


def _checked(opened: Opened, indices: Positions, form: Form, *, show: bool = False) -> Tensor:
    """Images (n, channels, image_size, image_size) at these indices, with the known labels."""
    images, labels = _decode(opened.dataset, indices, form, opened.where, show=show)
    for index, label in zip(indices, labels, strict=True):
        if label != opened.labels[index]:
            raise ValueError(
                f"expected the label {opened.labels[index]!r}, as listed by the data set, in item "
                f"{index} of {opened.where}, got {label!r}"
            )
    return images


def _decode(
    dataset: Any, indices: Positions, form: Form, where: str, *, show: bool = True
) -> tuple[Tensor, list[Label]]:
    """Images (n_indices, channels, image_size, image_size) at these indices, and their labels."""
    shape, purpose = (form.image_size, form.image_size), f"images of image_size {form.image_size}"
    images = torch.empty(len(indices), 0, *shape, dtype=torch.uint8, device="cpu")
    labels: list[Label] = [0] * len(indices)
    # In the data set's order, in which files are read fastest.
    disable = None if show else True
    order = tqdm(np.argsort(indices), "reading images", unit=" images", disable=disable)
    for place in order:
        image, labels[place] = read_item(dataset, int(indices[place]), where)
        n_channels = len(image)
        if n_channels > images.shape[1]:  # the first image, or the first in colour after grey ones
            check_fits(len(indices) * n_channels * form.image_size**2, f"{len(indices)} {purpose}")
            grown = torch.empty(len(indices), n_channels, *shape, dtype=torch.uint8, device="cpu")
            images = grown.copy_(images) if images.shape[1] else grown
        images[place] = resize_images(image, *form)
    return images, labels


def _number(train: Opened, others: Sequence[Opened], classes: Sequence[str] | None) -> Numbered:
    """The labels as indices into the class names, which `classes` replaces if given."""
    if classes is not None and len(set(classes)) < len(classes):
        raise ArgumentError("classes", f"must be different names, got {listed(classes)}")
    names = class_names(train.dataset)
    each = []
    for other in others or (None,):
        other_names = None if other is None else class_names(other.dataset)
        each.append(
            number_labels(
                train.labels,
                None if other is None else other.labels,
                names or classes,
                other_names or (None if names else classes),
            )
        )
    if any(numbered.classes != each[0].classes for numbered in each):
        raise ValueError(
            "expected the same classes beside the training set and each other set, "
            f"got {listed(each[0].classes)} and {listed(each[-1].classes)}"
        )
    of_others = [numbered.test for numbered in each if numbered.test is not None]
    numbered = each[0]._replace(test=np.concatenate(of_others) if of_others else None)
    own = numbered.classes
    if classes is None or tuple(classes) == own:
        return numbered
    if len(classes) != len(own) or set(classes) == set(own):
        raise ArgumentError(
            "classes",
            f"must be names for the data set's {len(own)} classes in their order, "
            f"{listed(own)}, got {listed(classes)}",
        )
    return numbered._replace(classes=tuple(classes))
