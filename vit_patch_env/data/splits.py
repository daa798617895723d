"""Images in three splits: training, validation and test."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.checks import InnerShare, Share, check

TEST_FRACTION = 0.2
"""Share held out for testing if a data set has no test split."""

_PIXEL_VALUES = np.arange(256) / 255


class Split(NamedTuple):
    """Images (n_images, channels, height, width) uint8 and labels (n_images,) int64."""

    images: Tensor
    labels: Tensor

    def take(self, indices: NDArray[np.int64]) -> "Split":
        """The images and labels at `indices` (n_taken,), in that order."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class ImageData:
    """A data set, ready for training.

    Attributes:
        train: images to train on.
        val: images split off the training images, for decisions during training.
        test: images for final metrics only.
        classes: class names, by label.
        flip: whether a mirrored image still belongs to its class.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    flip: bool

    @cached_property
    def channel_mean(self) -> tuple[float, ...]:
        """Mean of the training images per channel, in [0, 1]."""
        return tuple(float(shares @ _PIXEL_VALUES) for shares in self._pixel_shares)

    @cached_property
    def channel_std(self) -> tuple[float, ...]:
        """Standard deviation of the training images per channel, in [0, 1]."""
        return tuple(
            float(np.sqrt(shares @ (_PIXEL_VALUES - mean) ** 2))
            for shares, mean in zip(self._pixel_shares, self.channel_mean, strict=True)
        )

    @cached_property
    def _pixel_shares(self) -> list[NDArray[np.float64]]:
        """Per channel, the share of training pixels with each of the 256 values."""
        channels = self.train.images.unbind(dim=1)
        counts = [torch.bincount(values.flatten(), minlength=256) for values in channels]
        return [(count / count.sum()).double().cpu().numpy() for count in counts]

    def to(self, device: torch.device) -> "ImageData":
        """The same data on `device`."""
        train, val, test = (
            Split(split.images.to(device), split.labels.to(device))
            for split in (self.train, self.val, self.test)
        )
        return replace(self, train=train, val=val, test=test)


class Source(NamedTuple):
    """The result of a loader; `test` is None if the data set has no test split."""

    train: Split
    test: Split | None
    classes: tuple[str, ...]
    flip: bool


def split_source(
    source: Source, *, train_fraction: float, val_fraction: float, seed: int
) -> ImageData:
    """Training, validation and test split of a source, stratified by class, each shuffled.

    Raises:
        ValueError: for a fraction out of range, or a class with too few images.
    """
    check(Share, train_fraction=train_fraction)
    check(InnerShare, val_fraction=val_fraction)
    train, test = source.train, source.test
    if test is None:
        train, test = _stratified(train, TEST_FRACTION, seed, "test split")
    else:
        # Folders are read class by class: without shuffling, a batch would contain a single class,
        # unlike the batches that an agent was trained on.
        test = test.take(np.random.default_rng(seed).permutation(len(test.labels)))
    n_unused = round((1 - train_fraction) * len(train.labels))
    if n_unused >= len(source.classes):
        _, train = _stratified(train, train_fraction, seed, "train_fraction")
    train, val = _stratified(train, val_fraction, seed, "validation split")
    return ImageData(train, val, test, source.classes, source.flip)


def _stratified(split: Split, share: float, seed: int, purpose: str) -> tuple[Split, Split]:
    """(Rest, share) of the images, shuffled, both with the split's class proportions."""
    from sklearn.model_selection import train_test_split  # takes a second to import

    try:
        rest, part = train_test_split(
            np.arange(len(split.labels)),
            test_size=share,
            stratify=split.labels.numpy(),
            random_state=seed,
        )
    except ValueError as error:
        counts = torch.bincount(split.labels)
        raise ValueError(
            f"expected enough images of every class for the {purpose}, a share of {share}; "
            f"got {len(split.labels)} images, {int(counts.min())} of the smallest class: {error}"
        ) from error
    return split.take(rest), split.take(part)
