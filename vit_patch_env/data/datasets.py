"""Image data sets by name: uint8 images, labels, classes and statistics in three splits."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast, get_args

import numpy as np
import torch

from vit_patch_env.checks import ArgumentError, check_choice, named
from vit_patch_env.data.dataset_names import check_dataset_name
from vit_patch_env.data.downloads import may_download, missing_files
from vit_patch_env.data.resize import Form
from vit_patch_env.data.sources import ArraySource, Parts, Source
from vit_patch_env.data.splits import ImageData, split_source
from vit_patch_env.names import DatasetName, ImagesName, InterpolationName, ResizeName
from vit_patch_env.patches.grid import ImageSize, size_text
from vit_patch_env.system.cache import cache_dir
from vit_patch_env.system.memory import check_fits


class Request(NamedTuple):
    """What a loader is asked for.

    Attributes:
        root: folder of the images, or of downloads.
        form: what images become.
        skip_corrupt: whether to skip images that cannot be read.
        images: where they will be kept.
    """

    root: Path
    form: Form
    skip_corrupt: bool
    images: ImagesName


Loader = Callable[[Request], Source]


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    image_size: ImageSize = 32,
    train_fraction: float = 1.0,
    val_fraction: float = 0.1,
    skip_corrupt: bool = False,
    resize: ResizeName = "crop",
    images: ImagesName = "auto",
    interpolation: InterpolationName = "bilinear",
    check_classes: Callable[[Sequence[str]], None] | None = None,
    seed: int = 0,
) -> ImageData:
    """The named data set, resized to images of one shape and split.

    Args:
        name: `digits` (1,797 scans shipped with scikit-learn), `cifar10`, `cifar100`,
            `fashion_mnist` (downloaded on first use), `folder` (`data_dir/train/<class>/*` and
            `data_dir/test/<class>/*`, and other layouts: docs/own-data.md), `synthetic`,
            `torchvision:<class>` or `hf:<local path>`.
        data_dir: image folder of `folder`; for the others, where downloads are kept (by default the
            user's cache).
        image_size: height and width, in pixels; one number for squares.
        train_fraction: share of the training images to use, in (0, 1].
        val_fraction: share of those split off for validation, in (0, 1).
        skip_corrupt: leave out images that cannot be read, with a warning that lists them, instead
            of raising an error.
        resize: how images get this shape: `crop` (resized to cover it, centre kept), `stretch`, or
            `pad` (resized to fit in, the rest white).
        images: where they are kept: `memory`, `stream` (read batch by batch), or `auto`: in memory
            if at most half of the free memory is needed.
        interpolation: of resizing, `bilinear` or `bicubic`.
        check_classes: called with the names of the classes before any image is read; may raise.
        seed: of the stratified splits; use the same for all runs to be compared.

    Raises:
        ValueError: for an unknown name, a fraction out of range, a folder that is missing, empty
            or has one class, an unreadable image, or too few images to split.
    """
    check_dataset(name, data_dir)
    check_choice(get_args(ResizeName), resize=resize)
    check_choice(get_args(InterpolationName), interpolation=interpolation)
    root = Path(data_dir) if data_dir is not None else cache_dir()
    return split_source(
        _loader(name)(Request(root, Form(image_size, resize, interpolation), skip_corrupt, images)),
        train_fraction=train_fraction,
        val_fraction=val_fraction,
        seed=seed,
        images=images,
        check_classes=check_classes,
    )


def check_dataset(name: str, data_dir: str | Path | None) -> None:
    """Refuse an unknown name or an unusable folder without reading any image.

    Raises:
        ValueError: as `load_dataset`.
    """
    check_dataset_name(name)
    if name.startswith("torchvision:"):
        from vit_patch_env.data.torchvision_sets import torchvision_name

        torchvision_name(name.removeprefix("torchvision:"))
    if name == "folder":
        from vit_patch_env.data.layouts import check_layout
        from vit_patch_env.data.pictures import SUFFIXES

        if data_dir is None:
            raise ArgumentError(
                "dataset", f"'folder' needs {named('data_dir')}, the folder of images, got None"
            )
        check_layout(Path(data_dir), SUFFIXES)


def _load_digits(request: Request) -> Source:
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    images = torch.from_numpy(digits.images)[:, None] * (255 / 16)  # pixel values are 0 to 16
    labels = digits.target.astype(np.int64)
    classes = tuple(str(digit) for digit in range(10))
    return ArraySource(
        images.round().to(torch.uint8), labels, Parts(np.arange(len(labels))), classes,
        request.form, flip=False,
    )  # fmt: skip


def _load_torchvision(class_name: str) -> Loader:
    def load(request: Request) -> Source:
        from torchvision import datasets  # takes a second to import

        dataset = getattr(datasets, class_name)
        images, labels = [], []
        for train in (True, False):
            try:
                part = dataset(request.root, train=train, download=may_download())
            except (OSError, RuntimeError) as error:
                raise missing_files(class_name, request.root, error) from error
            pixels = torch.as_tensor(part.data)
            pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
            images.append(pixels)
            labels.append(np.asarray(part.targets, dtype=np.int64))
        n_train, n_test = map(len, labels)
        return ArraySource(
            torch.cat(images), np.concatenate(labels), Parts.in_turn(n_train, None, n_test),
            tuple(part.classes), request.form, flip=True,
        )  # fmt: skip

    return load


def _load_folder(request: Request) -> Source:
    # Imports Pillow's plugins.
    from vit_patch_env.data.image_folder import folder_source

    return folder_source(request.root, request.form, cache_dir(), skip_corrupt=request.skip_corrupt)


def _make_synthetic(request: Request) -> Source:
    """Four classes of 160 images: noise, with stripes in the quadrant that defines the class.

    Stripes rather than brightness, which the LayerNorm over each patch's values removes.
    """
    height, width = request.form.size
    rng = np.random.default_rng(0)
    n_classes, n_images = 4, 640
    half_height, half_width = height // 2, width // 2
    about = f"images of image_size {size_text(request.form.image_size)}"
    check_fits(2 * 3 * n_images * request.form.n_pixels, about)
    labels = np.arange(n_images) % n_classes
    pixels = rng.integers(0, 128, size=(n_images, 3, height, width), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        top, left = half_height * (label // 2), half_width * (label % 2)
        image[:, top : top + half_height, left : left + half_width : 2] += 100
    classes = ("top left", "top right", "bottom left", "bottom right")
    # A mirrored image would belong to another class.
    return ArraySource(
        torch.from_numpy(pixels), labels, Parts(np.arange(n_images)), classes, request.form,
        flip=False,
    )  # fmt: skip


def _loader(name: str) -> Loader:
    """The loader of a name that `check_dataset` accepts."""
    prefix, separator, rest = name.partition(":")
    if not separator:
        return _LOADERS[cast("DatasetName", name)]

    def load(request: Request) -> Source:
        from vit_patch_env.data.hugging_face_sets import open_hugging_face
        from vit_patch_env.data.torch_datasets import make_source
        from vit_patch_env.data.torchvision_sets import open_torchvision

        sets = (
            open_torchvision(rest, request.root)
            if prefix == "torchvision"
            else open_hugging_face(rest)
        )
        return make_source(
            sets.train, sets.val, sets.test, sets.classes, request.form, images=request.images,
            skip_corrupt=request.skip_corrupt, flip=sets.flip, notes=sets.notes,
        )  # fmt: skip

    return load


_LOADERS: dict[DatasetName, Loader] = {
    "digits": _load_digits,
    "cifar10": _load_torchvision("CIFAR10"),
    "cifar100": _load_torchvision("CIFAR100"),
    "fashion_mnist": _load_torchvision("FashionMNIST"),
    "folder": _load_folder,
    "synthetic": _make_synthetic,
}
assert set(_LOADERS) == set(get_args(DatasetName))
