"""Data from a user's torch data sets."""

from collections.abc import Sequence
from typing import Any, get_args

from torch.utils.data import Dataset

from vit_patch_env.checks import check_choice
from vit_patch_env.data.dataset_source import Form, make_source
from vit_patch_env.data.splits import ImageData, split_source
from vit_patch_env.names import ImagesName, ResizeName


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
    source = make_source(
        train, None, test, classes, Form(image_size, resize), images=images, flip=flip
    )
    return split_source(
        source,
        train_fraction=train_fraction,
        val_fraction=val_fraction,
        seed=seed,
        images=images,
    )
