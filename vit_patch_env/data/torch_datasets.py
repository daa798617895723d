"""Data from torch data sets: a user's own, and those that are known by name."""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from torch.utils.data import Dataset

from vit_patch_env.checks import check_choice, check_integer
from vit_patch_env.data.dataset_source import DatasetSource
from vit_patch_env.data.encoded import Pictures, pictures_of
from vit_patch_env.data.item_set import ItemSet
from vit_patch_env.data.labels import TEST_SET, TRAINING_SET, VALIDATION_SET, number_sets
from vit_patch_env.data.picture_source import PictureSource
from vit_patch_env.data.resize import Form
from vit_patch_env.data.sources import Parts, Source, warn_skipped, where_to_keep
from vit_patch_env.data.splits import ImageData, split_source
from vit_patch_env.names import ImagesName, ResizeName
from vit_patch_env.patches.grid import ImageSize
from vit_patch_env.system.cache import cache_dir


def make_source(
    train: Any,
    val: Any | None,
    test: Any | None,
    classes: Sequence[str] | None,
    form: Form,
    *,
    images: ImagesName,
    flip: bool,
    skip_corrupt: bool = False,
    num_workers: int = 0,
    notes: Sequence[str] = (),
) -> Source:
    """A source of the items of map-style data sets.

    Pictures that `pictures_of` knows are decoded into the cache, if their labels are known too.

    Args:
        train: the training set.
        val: the validation set, if there is one.
        test: the test set, if there is one.
        classes: class names by label; None for those of the data sets, or the labels as text.
        form: what images become.
        images: as in `load_dataset`.
        flip: as of any source.
        skip_corrupt: leave out items that cannot be used, with a warning that names them.
        num_workers: as of `ItemReader`.
        notes: as of any source.

    Raises:
        ValueError: as `ItemSet` and `number_sets`.
    """
    given = ((train, TRAINING_SET), (val, VALIDATION_SET), (test, TEST_SET))
    sets = [
        ItemSet(dataset, where, form, skip_corrupt=skip_corrupt, num_workers=num_workers)
        for dataset, where in given
        if dataset is not None
    ]
    pictures = [pictures_of(items.dataset) for items in sets]
    unlabelled = [items for items in sets if None in items.labels]
    if unlabelled:
        n_bytes = 3 * form.n_pixels * sum(map(len, sets))
        keep = where_to_keep(images, n_bytes) == "memory"
        for items in unlabelled:
            items.read(np.arange(len(items)), keep=keep)
            left_out = [number for number, label in enumerate(items.labels) if label is None]
            warn_skipped([f"item {number} of {items.where}" for number in left_out], len(items))
    labels = [
        {number: label for number, label in enumerate(items.labels) if label is not None}
        for items in sets
    ]
    numbered = number_sets([items.dataset for items in sets], labels, classes)
    lengths = iter(map(len, labels))
    parts = Parts.in_turn(*(None if dataset is None else next(lengths) for dataset, _ in given))
    known = [part for part in pictures if part is not None]
    if len(known) == len(sets) and not unlabelled:
        named = [(items.where, part) for items, part in zip(sets, known, strict=True)]
        return PictureSource(
            Pictures(named), numbered.labels, parts, numbered.classes, form, cache_dir(),
            skip_corrupt=skip_corrupt, flip=flip, notes=notes,
        )  # fmt: skip
    numbers = [np.array(list(part)) for part in labels]
    return DatasetSource(
        sets, numbers, numbered.labels, parts, numbered.classes, form, flip=flip, notes=notes
    )


def from_torch(
    train: Dataset[Any],
    test: Dataset[Any] | None = None,
    *,
    classes: Sequence[str] | None = None,
    flip: bool = True,
    image_size: ImageSize = 32,
    train_fraction: float = 1.0,
    val_fraction: float = 0.1,
    seed: int = 0,
    resize: ResizeName = "crop",
    images: ImagesName = "auto",
    skip_corrupt: bool = False,
    num_workers: int = 0,
) -> ImageData:
    """Map-style data sets of images and labels, resized and split.

    In memory, each item is read once, so a data set's own random augmentation does not change
    between epochs; streamed, it is read again in every batch, with seeded generators. Of a data set
    that keeps its labels apart from its images, only the items used are read. Files of
    torchvision's data sets and Hugging Face's images, without transforms, are decoded into the
    cache, as those of folders are.

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
        skip_corrupt: leave out items that cannot be read, or are no images with a label, with a
            warning that lists them, instead of raising an error.
        num_workers: processes that read items ahead, as of torch's `DataLoader`; 0 for none. The
            images are the same with any number.

    Raises:
        ValueError: as `load_dataset`, `read_item` and `number_labels`.
    """
    check_choice(get_args(ResizeName), resize=resize)
    check_choice(get_args(ImagesName), images=images)
    check_integer(0, num_workers=num_workers)
    source = make_source(
        train, None, test, classes, Form(image_size, resize), images=images, flip=flip,
        skip_corrupt=skip_corrupt, num_workers=num_workers,
    )  # fmt: skip
    return split_source(
        source,
        train_fraction=train_fraction,
        val_fraction=val_fraction,
        seed=seed,
        images=images,
    )
