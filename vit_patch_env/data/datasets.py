"""Image data sets by name: uint8 images, labels, classes and statistics in three splits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from vit_patch_env.checks import ArgumentError, check_choice
from vit_patch_env.data.resize import resize_square
from vit_patch_env.data.splits import ImageData, Source, Split, split_source
from vit_patch_env.names import DatasetName
from vit_patch_env.system.cache import cache_dir

Loader = Callable[[Path, int, bool], Source]
"""Maps a folder, an image size and whether to skip corrupt images to a data source."""


def load_dataset(
    name: DatasetName,
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
            `data_dir/test/<class>/*`, only one of them, or class folders) or `synthetic`.
        data_dir: image folder of `folder`; for the others, where downloads are kept (by default the
            user's cache).
        image_size: height and width, in pixels.
        train_fraction: share of the training images to use, in (0, 1].
        val_fraction: share of those split off for validation, in (0, 1).
        skip_corrupt: skip images of `folder` that cannot be read, with a warning that lists them,
            instead of raising an error.
        seed: of the stratified splits; use the same for all runs to be compared.

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


def check_dataset(name: DatasetName, data_dir: str | Path | None) -> None:
    """Refuse an unknown name or an unusable folder without reading any image.

    Raises:
        ValueError: as `load_dataset`.
    """
    check_choice(get_args(DatasetName), dataset=name)
    if name == "folder":
        from vit_patch_env.data.image_folder import find_folder_splits

        if data_dir is None:
            raise ArgumentError(
                "dataset", "'folder' needs data_dir, the folder of images, got None"
            )
        find_folder_splits(Path(data_dir))


def _load_digits(_root: Path, image_size: int, _skip_corrupt: bool) -> Source:
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    images = torch.from_numpy(digits.images)[:, None] * (255 / 16)  # pixel values are 0 to 16
    images = resize_square(images.round().to(torch.uint8), image_size)
    split = Split(images, torch.from_numpy(digits.target).long())
    return Source(split, None, tuple(str(digit) for digit in range(10)), flip=False)


def _load_torchvision(class_name: str) -> Loader:
    def load(root: Path, image_size: int, _skip_corrupt: bool) -> Source:
        from torchvision import datasets  # takes a second to import

        dataset = getattr(datasets, class_name)
        splits = []
        for train in (True, False):
            try:
                part = dataset(root, train=train, download=True)
            except (OSError, RuntimeError) as error:
                raise ValueError(
                    f"expected the files of {class_name} in {root} or a network to download "
                    f"them from, got: {error}"
                ) from error
            images = torch.as_tensor(part.data)
            images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
            labels = torch.as_tensor(part.targets).long()
            splits.append(Split(resize_square(images.contiguous(), image_size), labels))
        return Source(splits[0], splits[1], tuple(part.classes), flip=True)

    return load


def _load_folder(root: Path, image_size: int, skip_corrupt: bool) -> Source:
    # Imports torchvision, which takes a second.
    from vit_patch_env.data.image_folder import find_folder_splits, load_image_folder

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
    """Four classes of 160 images: noise, with stripes in the quadrant that defines the class.

    Stripes rather than brightness, which the LayerNorm over each patch's values removes.
    """
    rng = np.random.default_rng(0)
    n_classes, n_images, half = 4, 640, image_size // 2
    labels = np.arange(n_images) % n_classes
    pixels = rng.integers(0, 128, size=(n_images, 3, image_size, image_size), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        top, left = half * (label // 2), half * (label % 2)
        image[:, top : top + half, left : left + half : 2] += 100
    split = Split(torch.from_numpy(pixels), torch.from_numpy(labels).long())
    # A mirrored image would belong to another class.
    return Source(split, None, ("top left", "top right", "bottom left", "bottom right"), flip=False)


_LOADERS: dict[DatasetName, Loader] = {
    "digits": _load_digits,
    "cifar10": _load_torchvision("CIFAR10"),
    "cifar100": _load_torchvision("CIFAR100"),
    "fashion_mnist": _load_torchvision("FashionMNIST"),
    "folder": _load_folder,
    "synthetic": _make_synthetic,
}
assert set(_LOADERS) == set(get_args(DatasetName))
