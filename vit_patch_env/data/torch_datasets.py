"""Data from a user's torch data sets."""

from typing import Any, get_args

from torch.utils.data import Dataset

from vit_patch_env.checks import ArgumentError, check_choice
from vit_patch_env.data.dataset_source import DatasetSource, Form, Opened, open_dataset
from vit_patch_env.data.labels import (
    TEST_SET,
    TRAINING_SET,
    Numbered,
    class_names,
    listed,
    number_labels,
)
from vit_patch_env.data.splits import ImageData, split_source
from vit_patch_env.names import ImagesName, ResizeName


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
    resize: ResizeName = "crop",
    images: ImagesName = "auto",
) -> ImageData:
    """Map-style data sets of images and labels, resized and split.

    In memory, each item is read once, so a data set's own random augmentation does not change
    between epochs; streamed, it is read again in every batch, with seeded generators. Of a data set
    that keeps its labels apart from its images, only the items used are read.

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
        images: as in `load_dataset`.

    Raises:
        ValueError: as `load_dataset`, `read_item` and `number_labels`.
    """
    check_choice(get_args(ResizeName), resize=resize)
    form = Form(image_size, resize)
    opened = [open_dataset(train, TRAINING_SET, form, images)]
    if test is not None:
        opened.append(open_dataset(test, TEST_SET, form, images))
    numbered = _number(opened[0], opened[1] if len(opened) > 1 else None, classes)
    return split_source(
        DatasetSource(opened, numbered, form, flip=flip),
        train_fraction=train_fraction,
        val_fraction=val_fraction,
        seed=seed,
        images=images,
    )


def _number(train: Opened, test: Opened | None, classes: tuple[str, ...] | None) -> Numbered:
    """The labels as indices into the class names, which `classes` replaces if given."""
    names = class_names(train.dataset)
    test_names = None if test is None else class_names(test.dataset)
    numbered = number_labels(
        train.labels,
        None if test is None else test.labels,
        names or classes,
        test_names or (None if names else classes),
    )
    if classes is None or classes == numbered.classes:
        return numbered
    own = numbered.classes
    if len(classes) != len(own) or set(classes) == set(own):
        raise ArgumentError(
            "classes",
            f"must be names for the data set's {len(own)} classes in their order, "
            f"{listed(own)}, got {listed(classes)}",
        )
    return numbered._replace(classes=classes)
