"""Image data sets by name: uint8 images, labels, classes and statistics in three splits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.transforms.v2 import functional as transforms

from vit_patch_env.checks import InnerShare, Share, check, check_choice, check_integer
from vit_patch_env.data.image_folder import find_folder_splits, load_image_folder, resize_square
from vit_patch_env.system.cache import cache_dir

TEST_FRACTION = 0.2
"""Share held out for testing where a data set has no test split of its own."""

_PIXEL_VALUES = np.arange(256) / 255

DatasetName = Literal["digits", "cifar10", "cifar100", "fashion_mnist", "folder", "synthetic"]
SplitName = Literal["train", "val", "test"]


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
        val: images split off the training images, for choices made while training.
        test: images for final figures only.
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
        """Per channel, which share of the training pixels has each of the 256 values."""
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
    """What a loader returns: `test` is None where the data set has no test split."""

    train: Split
    test: Split | None
    classes: tuple[str, ...]
    flip: bool


Loader = Callable[[Path, int, bool], Source]
"""Maps a folder, an image size and whether to skip corrupt images to what is there."""


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int = 32,
    train_fraction: float = 1.0,
    val_fraction: float = 0.1,
    skip_corrupt: bool = False,
    seed: int = 0,
) -> ImageData:
    """The named data set, resized to square images and split.

    Args:
        name: `digits` (1,797 scans shipped with scikit-learn), `cifar10`, `cifar100`,
            `fashion_mnist` (downloaded on first use), `folder` (`data_dir/train/<class>/*` and
            `data_dir/test/<class>/*`, or one of them, or class folders alone) or `synthetic`.
        data_dir: where `folder` is, or where downloads are kept (by default the user's cache).
        image_size: height and width, in pixels.
        train_fraction: share of the training images to use, in (0, 1].
        val_fraction: share of those split off for validation, in (0, 1).
        skip_corrupt: leave out images of `folder` that cannot be read, with a warning that names
            them, instead of refusing all.
        seed: of the stratified splits, the same for all runs that are to be compared.

    Raises:
        ValueError: for an unknown name, a fraction out of range, a folder that is missing, empty
            or has one class, an unreadable image, or too few images to split.
    """
    check_dataset(name, data_dir)
    root = Path(data_dir) if data_dir is not None else cache_dir()
    return split_source(
        _LOADERS[name](root, image_size, skip_corrupt),
        train_fraction=train_fraction,
        val_fraction=val_fraction,
        seed=seed,
    )


def check_dataset(name: str, data_dir: str | Path | None) -> None:
    """Refuse an unknown name or an unusable folder without reading any image.

    Raises:
        ValueError: as `load_dataset`.
    """
    check_choice(tuple(_LOADERS), dataset=name)
    if name == "folder":
        if data_dir is None:
            raise ValueError("dataset 'folder' needs data_dir, the folder of images, got None")
        find_folder_splits(Path(data_dir))


def from_torch(
    train: Dataset[Any],
    test: Dataset[Any] | None = None,
    *,
    classes: tuple[str, ...] | None = None,
    flip: bool = True,
    image_size: int = 32,
    train_fraction: float = 1.0,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> ImageData:
    """A user's own map-style data sets of (image, label) pairs, resized and split.

    Args:
        train: pairs of an image (PIL, or a tensor (channels, height, width): uint8, or floating
            point in [0, 1]) and an integer label from 0.
        test: the same for testing; by default a share of `train` is held out.
        classes: class names by label; by default the labels as text.
        flip: whether a mirrored image still belongs to its class.
        image_size: as in `load_dataset`.
        train_fraction: as in `load_dataset`.
        val_fraction: as in `load_dataset`.
        seed: as in `load_dataset`.

    Raises:
        ValueError: as `load_dataset`.
    """
    train_split = _read(train, image_size)
    test_split = None if test is None else _read(test, image_size)
    labels = (
        train_split.labels
        if test_split is None
        else torch.cat((train_split.labels, test_split.labels))
    )
    if classes is None:
        classes = tuple(str(label) for label in range(int(labels.max()) + 1))
    if len(classes) < 2:
        raise ValueError(f"expected at least two classes, got {', '.join(classes)}")
    check_integer(0, len(classes) - 1, **{"lowest label": int(labels.min())})
    check_integer(0, len(classes) - 1, **{"highest label": int(labels.max())})
    return split_source(
        Source(train_split, test_split, classes, flip),
        train_fraction=train_fraction,
        val_fraction=val_fraction,
        seed=seed,
    )


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
        # Class by class, as folders are read, a batch would hold one class alone, and an agent
        # would be shown batches unlike those that it was trained on.
        test = test.take(np.random.default_rng(seed).permutation(len(test.labels)))
    n_left_out = round((1 - train_fraction) * len(train.labels))
    if n_left_out >= len(source.classes):
        _, train = _stratified(train, train_fraction, seed, "train_fraction")
    train, val = _stratified(train, val_fraction, seed, "validation split")
    return ImageData(train, val, test, source.classes, source.flip)


def _stratified(split: Split, share: float, seed: int, purpose: str) -> tuple[Split, Split]:
    """(The rest, a share of the images), shuffled, both with the split's proportions."""
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


def _read(dataset: Any, image_size: int) -> Split:
    if not len(dataset):
        raise ValueError("expected a data set of (image, label) pairs, got an empty one")
    images: list[Tensor] = []
    labels = []
    for index in range(len(dataset)):
        image, label = dataset[index]
        image = resize_square(_as_uint8(image), image_size)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"expected {len(images[0])} channels in every image, got {len(image)} in image "
                f"{index}"
            )
        images.append(image)
        labels.append(int(label))
    return Split(torch.stack(images), torch.tensor(labels))


def _as_uint8(image: Any) -> Tensor:
    """An image as a tensor (channels, height, width) uint8."""
    if isinstance(image, Image.Image):
        image = transforms.pil_to_tensor(image if image.mode == "L" else image.convert("RGB"))
    if not isinstance(image, Tensor) or image.ndim != 3:
        kind = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(
            f"expected images of PIL, or tensors (channels, height, width), got {kind}"
        )
    if image.is_floating_point() and not 0 <= image.min() <= image.max() <= 1:
        raise ValueError(
            "expected floating-point images in [0, 1], without a normalisation, "
            f"got values in [{image.min():.3g}, {image.max():.3g}]"
        )
    converted: Tensor = transforms.to_dtype(image, torch.uint8, scale=True)
    return converted


def _load_digits(_root: Path, image_size: int, _skip_corrupt: bool) -> Source:
    digits = load_digits()
    images = torch.from_numpy(digits.images)[:, None] * (255 / 16)  # the scans count to 16
    images = resize_square(images.round().to(torch.uint8), image_size)
    split = Split(images, torch.from_numpy(digits.target).long())
    return Source(split, None, tuple(str(digit) for digit in range(10)), flip=False)


def _load_torchvision(dataset: Any) -> Loader:
    def load(root: Path, image_size: int, _skip_corrupt: bool) -> Source:
        splits = []
        for train in (True, False):
            try:
                part = dataset(root, train=train, download=True)
            except (OSError, RuntimeError) as error:
                raise ValueError(
                    f"expected the files of {dataset.__name__} in {root} or a network to download "
                    f"them from, got: {error}"
                ) from error
            images = torch.as_tensor(part.data)
            images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
            labels = torch.as_tensor(part.targets).long()
            splits.append(Split(resize_square(images.contiguous(), image_size), labels))
        return Source(splits[0], splits[1], tuple(part.classes), flip=True)

    return load


def _load_folder(root: Path, image_size: int, skip_corrupt: bool) -> Source:
    paths = find_folder_splits(root)
    load = partial(
        load_image_folder, image_size=image_size, cache=cache_dir(), skip_corrupt=skip_corrupt
    )
    images, labels, classes = load(paths.train)
    if paths.test is None:
        return Source(Split(images, labels), None, classes, flip=True)
    test_images, test_labels, test_classes = load(paths.test)
    if test_classes != classes:
        raise ValueError(
            f"expected the same classes in {paths.train} and {paths.test}, "
            f"got {', '.join(sorted(set(classes) ^ set(test_classes)))} in only one of them"
        )
    return Source(Split(images, labels), Split(test_images, test_labels), classes, flip=True)


def _make_synthetic(_root: Path, image_size: int, _skip_corrupt: bool) -> Source:
    """Four classes of 160 images: noise, and stripes in the quadrant that is the class.

    Stripes, as brightness alone is lost in the LayerNorm over each patch's values.
    """
    rng = np.random.default_rng(0)
    n_classes, n_images, half = 4, 640, image_size // 2
    labels = np.arange(n_images) % n_classes
    pixels = rng.integers(0, 128, size=(n_images, 3, image_size, image_size), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        top, left = half * (label // 2), half * (label % 2)
        image[:, top : top + half, left : left + half : 2] += 100
    split = Split(torch.from_numpy(pixels), torch.from_numpy(labels).long())
    # A mirrored image would show another class.
    return Source(split, None, ("top left", "top right", "bottom left", "bottom right"), flip=False)


_LOADERS: dict[str, Loader] = {
    "digits": _load_digits,
    "cifar10": _load_torchvision(datasets.CIFAR10),
    "cifar100": _load_torchvision(datasets.CIFAR100),
    "fashion_mnist": _load_torchvision(datasets.FashionMNIST),
    "folder": _load_folder,
    "synthetic": _make_synthetic,
}
assert set(_LOADERS) == set(get_args(DatasetName))
