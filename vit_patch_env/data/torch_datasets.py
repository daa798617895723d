"""Data from a user's torch data sets."""

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from vit_patch_env.checks import ArgumentError, check_choice
from vit_patch_env.data.items import Label, n_items, read_item
from vit_patch_env.data.labels import (
    TEST_SET,
    TRAINING_SET,
    Numbered,
    class_names,
    known_labels,
    listed,
    number_labels,
)
from vit_patch_env.data.resize import resize_images
from vit_patch_env.data.splits import ImageData, Source, Split, split_source
from vit_patch_env.names import ResizeName
from vit_patch_env.system.memory import check_fits


def from_torch(
    train: Dataset[Any],
    test: Dataset[Any] | None = None,
    *,
    classes: Sequence[str] | None = None,
    flip: bool = True,
    image_size: int = 32,
    train_fraction: float = 1.0,
    val_fraction: float = 0.1,
    seed: int = 0,
    resize: ResizeName = "crop",
) -> ImageData:
    """Map-style data sets of images and labels, resized and split.

    Each item is read once, so a data set's own random augmentation does not change between epochs.
    Of a data set that keeps its labels apart from its images, only the items used are read.

    Args:
        train: items as `split_item` takes them, of images as `image_tensor` takes them; labels are
            integers from 0, or text. Grey images become RGB if any image is.
        test: the same for testing; by default a share of `train` is held out. Its classes are
            matched with those of `train` by name if both have names, otherwise by number.
        classes: class names by label; by default those of the data set, or the labels as text.
        flip: whether a mirrored image still belongs to its class.
        image_size: as in `load_dataset`.
        train_fraction: as in `load_dataset`.
        val_fraction: as in `load_dataset`.
        seed: as in `load_dataset`.
        resize: as in `resize_images`.

    Raises:
        ValueError: as `load_dataset`, `read_item` and `number_labels`.
    """
    check_choice(get_args(ResizeName), resize=resize)
    form = _Form(image_size, resize)
    images = _open(train, TRAINING_SET, form)
    test_images = None if test is None else _open(test, TEST_SET, form)
    numbered = _number(images, test_images, classes)
    places = Source(
        _places(numbered.train),
        None if numbered.test is None else _places(numbered.test),
        numbered.classes,
        flip,
    )
    # Chosen before they are read: `places` has indices in place of images.
    chosen = split_source(
        places, train_fraction=train_fraction, val_fraction=val_fraction, seed=seed
    )
    train_split, val_split, test_split = _with_same_channels(
        [
            Split(_read(opened, split.images.numpy(), form), split.labels)
            for opened, split in (
                (images, chosen.train),
                (images, chosen.val),
                (images if test_images is None else test_images, chosen.test),
            )
        ]
    )
    return ImageData(train_split, val_split, test_split, numbered.classes, flip)


class _Form(NamedTuple):
    """What images become."""

    image_size: int
    resize: ResizeName


class _Opened(NamedTuple):
    """A data set and its labels; with its images if they had to be read to know the labels."""

    dataset: Any
    labels: list[Label]
    images: Tensor | None
    where: str


def _open(dataset: Any, where: str, form: _Form) -> _Opened:
    labels = known_labels(dataset, where)
    if labels is not None:
        return _Opened(dataset, labels, None, where)
    images, labels = _decode(dataset, np.arange(n_items(dataset, where)), form, where)
    return _Opened(dataset, labels, images, where)


def _number(train: _Opened, test: _Opened | None, classes: Sequence[str] | None) -> Numbered:
    """The labels as indices into the class names, which `classes` replaces if given."""
    if classes is not None and len(set(classes)) < len(classes):
        raise ArgumentError("classes", f"must be different names, got {listed(classes)}")
    names = class_names(train.dataset)
    test_names = None if test is None else class_names(test.dataset)
    numbered = number_labels(
        train.labels,
        None if test is None else test.labels,
        names or classes,
        test_names or (None if names else classes),
    )
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


def _places(labels: NDArray[np.int64]) -> Split:
    return Split(torch.arange(len(labels)), torch.from_numpy(labels))


def _read(opened: _Opened, indices: NDArray[np.int64], form: _Form) -> Tensor:
    """Images (n_indices, channels, image_size, image_size) at these indices, in their order."""
    if opened.images is not None:
        return opened.images[indices]
    images, labels = _decode(opened.dataset, indices, form, opened.where)
    for index, label in zip(indices, labels, strict=True):
        if label != opened.labels[index]:
            raise ValueError(
                f"expected the label {opened.labels[index]!r}, as listed by the data set, in item "
                f"{index} of {opened.where}, got {label!r}"
            )
    return images


def _decode(
    dataset: Any, indices: NDArray[np.int64], form: _Form, where: str
) -> tuple[Tensor, list[Label]]:
    """Images (n_indices, channels, image_size, image_size) at these indices, and their labels."""
    shape, purpose = (form.image_size, form.image_size), f"images of image_size {form.image_size}"
    images = torch.empty(len(indices), 0, *shape, dtype=torch.uint8)
    labels: list[Label] = [0] * len(indices)
    # In the data set's order, in which files are read fastest.
    for place in tqdm(np.argsort(indices), "reading images", unit=" images", disable=None):
        image, labels[place] = read_item(dataset, int(indices[place]), where)
        n_channels = len(image)
        if n_channels > images.shape[1]:  # the first image, or the first in colour after grey ones
            check_fits(len(indices) * n_channels * form.image_size**2, f"{len(indices)} {purpose}")
            grown = torch.empty(len(indices), n_channels, *shape, dtype=torch.uint8)
            images = grown.copy_(images) if images.shape[1] else grown
        images[place] = resize_images(image, *form)
    return images, labels


def _with_same_channels(splits: list[Split]) -> list[Split]:
    """Splits of grey images in RGB if another split is."""
    n_channels = max(split.images.shape[1] for split in splits)
    return [
        split._replace(images=split.images.expand(-1, n_channels, -1, -1).contiguous())
        for split in splits
    ]
