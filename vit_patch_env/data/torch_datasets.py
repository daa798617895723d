"""Data from a user's torch data sets."""

from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vit_patch_env.checks import check_integer
from vit_patch_env.data.resize import resize_square
from vit_patch_env.data.sources import ArraySource, Parts
from vit_patch_env.data.splits import ImageData, Split, split_source


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
    """Map-style data sets of (image, label) pairs, resized and split.

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
    splits = [split for split in (train_split, test_split) if split is not None]
    n_train = len(train_split.labels)
    test_part = None if test_split is None else np.arange(n_train, len(labels))
    return split_source(
        ArraySource(
            torch.cat([cast("Tensor", split.images) for split in splits]),
            labels.numpy(),
            Parts(np.arange(n_train), test=test_part),
            classes,
            flip=flip,
        ),
        train_fraction=train_fraction,
        val_fraction=val_fraction,
        seed=seed,
    )


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
    from torchvision.transforms.v2 import functional as transforms  # takes a second to import

    if isinstance(image, Image.Image):
        image = transforms.pil_to_tensor(image if image.mode == "L" else image.convert("RGB"))
    if not isinstance(image, Tensor) or image.ndim != 3:
        kind = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"expected PIL images, or tensors (channels, height, width), got {kind}")
    if image.is_floating_point() and not 0 <= image.min() <= image.max() <= 1:
        raise ValueError(
            "expected floating-point images in [0, 1], not normalised, "
            f"got values in [{image.min():.3g}, {image.max():.3g}]"
        )
    converted: Tensor = transforms.to_dtype(image, torch.uint8, scale=True)
    return converted
