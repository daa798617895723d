"""Images, or other items, in three splits: training, validation and test."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.checks import (
    ArgumentError,
    InnerShare,
    InputError,
    Share,
    check,
    check_choice,
    counted,
    named,
)
from vit_patch_env.data.images import Images, channel_sums
from vit_patch_env.data.sources import Positions, Source
from vit_patch_env.names import ImagesName
from vit_patch_env.system.limits import available_memory
from vit_patch_env.system.shown import escaped, listed

TEST_FRACTION = 0.2
"""Share held out for testing if a data set has no test split."""


class Split(NamedTuple):
    """Images (n_images, channels, height, width) uint8 and labels (n_images,) int64.

    The images are a tensor, or an object that reads those it is indexed with. Texts are token ids
    in their place: see `TextData`.
    """

    images: Images
    labels: Tensor


@dataclass(frozen=True)
class SplitData:
    """What a data set of any items has.

    Attributes:
        train: items to train on.
        val: items split off those, for decisions during training.
        test: items for final metrics only.
        classes: class names, by label.
        notes: lines that tell a user what was read.
        test_names: paths of the test items, or their numbers in the set that they come from, in
            the order of `test`; empty if they are not known.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    test_names: tuple[str, ...] = field(default=(), kw_only=True, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        splits = {name: getattr(self, name) for name in ("train", "val", "test")}
        # Pickled, splits that share memory would each contain all of it.
        return self.__dict__ | {
            name: split._replace(images=split.images.clone())
            for name, split in splits.items()
            if isinstance(split.images, Tensor)
            and split.images.nbytes < split.images.untyped_storage().nbytes()
        }

    def to(self, device: torch.device) -> Self:
        """The same data on `device`; images that are streamed, or do not fit there, stay."""
        splits = (self.train, self.val, self.test)
        tensors = [split.images for split in splits if isinstance(split.images, Tensor)]
        n_bytes = sum(images.nbytes for images in tensors if images.device != device)
        fits = device.type == "cpu" or n_bytes <= available_memory(device) // 2
        train, val, test = (
            Split(
                split.images.to(device) if isinstance(split.images, Tensor) and fits
                else split.images,
                split.labels.to(device),
            )
            for split in splits
        )  # fmt: skip
        return replace(self, train=train, val=val, test=test)


@dataclass(frozen=True)
class ImageData(SplitData):
    """A data set, ready for training.

    Attributes:
        train: images to train on.
        val: images split off the training images, for decisions during training.
        test: images for final metrics only.
        classes: class names, by label.
        flip: whether a mirrored image still belongs to its class.
        notes: lines that tell a user what was read.
    """

    flip: bool

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        _, _, height, width = self.train.images.shape
        return height, width

    def blank(self, n_images: int, device: torch.device) -> Tensor:
        """Normalised images of zeros: (n_images, channels, height, width) float32."""
        shape = n_images, *self.train.images.shape[1:]
        return torch.zeros(shape, dtype=torch.float32, device=device)

    @cached_property
    def channel_mean(self) -> tuple[float, ...]:
        """Mean of the training images per channel, in [0, 1]."""
        n_pixels, sums, _ = self._sums
        return tuple(value / n_pixels / 255 for value in sums.tolist())

    @cached_property
    def channel_std(self) -> tuple[float, ...]:
        """Standard deviation of the training images per channel, in [0, 1]."""
        n_pixels, sums, squares = self._sums
        # In Python's integers: the difference may be small, and the products exceed 64 bits.
        variances = [
            n_pixels * square - value**2
            for value, square in zip(sums.tolist(), squares.tolist(), strict=True)
        ]
        return tuple(math.sqrt(variance) / n_pixels / 255 for variance in variances)

    @cached_property
    def _sums(self) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """Pixels per channel, and the sums of their values and of the squares."""
        n_images, _, height, width = self.train.images.shape
        return n_images * height * width, *channel_sums(self.train.images)


def split_source(
    source: Source,
    *,
    train_fraction: float,
    val_fraction: float,
    seed: int,
    images: ImagesName = "auto",
    check_classes: Callable[[Sequence[str]], None] | None = None,
) -> ImageData:
    """Training, validation and test split of a source, stratified by class, each shuffled.

    Only the images that are used are read.

    Args:
        source: of images and labels.
        train_fraction: share of the training images to use, in (0, 1].
        val_fraction: share of those for validation, in (0, 1), if the source has no such split.
        seed: of the splits.
        images: where they are kept: `memory`, `stream`, or `auto` for what fits.
        check_classes: called with the names of the classes before any image is read; may raise.

    Raises:
        ValueError: for a fraction out of range, a class with too few images, or an image that
            cannot be read.
    """
    if check_classes is not None:
        check_classes(source.classes)
    splits, notes, names = read_splits(
        source,
        train_fraction=train_fraction,
        val_fraction=val_fraction,
        seed=seed,
        images=images,
    )
    return ImageData(*splits, source.classes, source.flip, notes=notes, test_names=names)


def read_splits(
    source: Source,
    *,
    train_fraction: float,
    val_fraction: float,
    seed: int,
    images: ImagesName = "auto",
) -> tuple[tuple[Split, Split, Split], tuple[str, ...], tuple[str, ...]]:
    """The splits of `split_source`, of a source of any items; notes; names of the test items."""
    check(Share, train_fraction=train_fraction)
    check(InnerShare, val_fraction=val_fraction)
    check_choice(get_args(ImagesName), images=images)
    parts = _choose(source, train_fraction, val_fraction, seed)
    readable = source.prepare(np.concatenate(parts), images)
    if not readable.all():
        ends = np.cumsum([len(part) for part in parts])[:-1]
        parts = tuple(
            part[mask] for part, mask in zip(parts, np.split(readable, ends), strict=True)
        )
    about_classes = _check_classes(source, parts)
    read = source.read(parts, images)
    train, val, test = (
        Split(images_of_part, torch.from_numpy(source.labels[part]))
        for images_of_part, part in zip(read, parts, strict=True)
    )
    notes = [*source.notes, *_duplicates(source, parts, read), *about_classes]
    names = tuple(map(source.path_or_number, parts[-1].tolist()))
    return (train, val, test), tuple(notes), names


def _choose(
    source: Source, train_fraction: float, val_fraction: float, seed: int
) -> tuple[Positions, ...]:
    """Positions of the training, validation and test images, each shuffled."""
    train, val, test = source.parts
    if test is None:
        train, test = _stratified(source, train, TEST_FRACTION, seed, "a test split")
    else:
        # Folders are read class by class: without shuffling, a batch would contain a single class,
        # unlike the batches that an agent was trained on.
        test = test[np.random.default_rng(seed).permutation(len(test))]
    n_unused = round((1 - train_fraction) * len(train))
    if n_unused >= len(source.classes):
        _, train = _stratified(source, train, train_fraction, seed, "train_fraction")
    elif n_unused:
        source.notes.append(
            f"a share of {train_fraction} of {counted(len(train), f'training {source.item}')} "
            f"leaves out fewer than one of each of {counted(len(source.classes), 'class')}: all "
            "are used"
        )
    if val is None:
        train, val = _stratified(source, train, val_fraction, seed, "val_fraction")
    else:
        val = val[np.random.default_rng(seed).permutation(len(val))]
        train = train[np.random.default_rng(seed).permutation(len(train))]
    return train, val, test


def _stratified(
    source: Source, positions: Positions, share: float, seed: int, purpose: str
) -> tuple[Positions, Positions]:
    """(Rest, share) of the positions, shuffled, both with their class proportions.

    Args:
        source: of the images.
        positions: to be split.
        share: of the second part, in (0, 1).
        seed: of the split.
        purpose: the argument that determines the share, or what it is for.
    """
    from sklearn.model_selection import train_test_split  # takes a second to import

    labels = source.labels[positions]
    present, counts = np.unique(labels, return_counts=True)
    n_part = int(np.ceil(share * len(positions)))
    n_smaller = min(n_part, len(positions) - n_part)
    smallest = escaped(source.classes[present[counts.argmin()]])
    if counts.min() < 2:
        raise InputError(
            f"expected at least 2 {source.item}s of every class to split off "
            f"{_of(purpose, share)}, got {counts.min()} of {smallest}"
        )
    if n_smaller < len(present):
        problem = (
            f"must leave at least one {source.item} of each of {counted(len(present), 'class')} in "
            f"both parts, got {share}, which splits {counted(len(positions), source.item)} into "
            f"{len(positions) - n_part:,} and {n_part:,}; the smallest class, {smallest}, has "
            f"{counts.min()}"
        )
        if purpose.endswith("_fraction"):
            raise ArgumentError(purpose, problem)
        raise InputError(f"{purpose} {problem}")
    rest, part = train_test_split(
        np.arange(len(positions)), test_size=share, stratify=labels, random_state=seed
    )
    return positions[rest], positions[part]


def _of(purpose: str, share: float) -> str:
    return f"{named(purpose)} {share}" if purpose.endswith("_fraction") else f"{purpose} of {share}"


def _duplicates(source: Source, parts: Sequence[Positions], images: Sequence[Images]) -> list[str]:
    """A note on images that are tested on and trained on, if there are any."""
    *trained, tested = map(source.contents, parts, images)
    first: dict[Hashable, int] = {}
    for contents, part in zip(trained, parts, strict=False):
        first.update(zip(contents, part.tolist(), strict=True))
    pairs = [
        (position, first[content])
        for content, position in zip(tested, parts[-1].tolist(), strict=True)
        if content in first
    ]
    if not pairs:
        return []
    one, other = map(source.name, pairs[0])
    return [
        f"{len(pairs):,} of {len(tested):,} test {source.item}s are also training {source.item}s, "
        f"such as {one} and {other}"
    ]


def _check_classes(source: Source, parts: tuple[Positions, ...]) -> list[str]:
    """Notes on classes without validation or test images.

    Raises:
        ValueError: for a class without training images.
    """
    notes = []
    for part, name in zip(parts, ("training", "validation", "test"), strict=True):
        counts = np.bincount(source.labels[part], minlength=len(source.classes))
        labels = np.flatnonzero(counts == 0)
        missing = [source.classes[label] for label in labels]
        if name == "training" and np.isin(labels, source.labels[source.parts.train]).any():
            raise InputError(
                f"expected training {source.item}s of every class, got none of {listed(missing)}"
            )
        if name == "training" and missing:
            notes.append(f"the data set has no training {source.item}s of {listed(missing)}")
        elif missing:
            notes.append(
                f"no {name} {source.item}s of {listed(missing)}: macro metrics are over the other "
                f"{counted(len(source.classes) - len(missing), 'class')}"
            )
    return notes
