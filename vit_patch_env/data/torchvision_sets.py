"""torchvision's data sets for classification, by name."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vit_patch_env.checks import ArgumentError, shown
from vit_patch_env.data.downloads import may_download, missing_files
from vit_patch_env.data.encoded import pictures_of
from vit_patch_env.data.items import close_file, read_pair
from vit_patch_env.data.labels import stored_labels
from vit_patch_env.data.named_sets import Sets, sets_by_role


class _Kind(NamedTuple):
    """How a class of torchvision names its splits, if by the argument `split`."""

    train: str = "train"
    val: str | None = None
    test: str | None = "test"
    flip: bool = True
    options: Mapping[str, Any] = {}


_TRAIN_VAL_TEST = _Kind(val="val")

TORCHVISION_SETS: dict[str, _Kind] = {
    "CIFAR10": _Kind(),
    "CIFAR100": _Kind(),
    "CLEVRClassification": _TRAIN_VAL_TEST,
    "Caltech101": _Kind(),
    "Caltech256": _Kind(),
    "Country211": _Kind(val="valid"),
    "DTD": _TRAIN_VAL_TEST,
    "EMNIST": _Kind(flip=False, options={"split": "balanced"}),
    "EuroSAT": _Kind(),
    "FER2013": _Kind(),
    "FGVCAircraft": _TRAIN_VAL_TEST,
    "FashionMNIST": _Kind(),
    "Flowers102": _TRAIN_VAL_TEST,
    "Food101": _Kind(),
    "GTSRB": _Kind(flip=False),
    "ImageNet": _Kind(val="val", test=None),
    "Imagenette": _Kind(val="val", test=None),
    "KMNIST": _Kind(flip=False),
    "MNIST": _Kind(flip=False),
    "OxfordIIITPet": _Kind("trainval"),
    "PCAM": _TRAIN_VAL_TEST,
    "Places365": _Kind("train-standard", "val", None, options={"small": True}),
    "QMNIST": _Kind(flip=False),
    "RenderedSST2": _TRAIN_VAL_TEST._replace(flip=False),
    "SEMEION": _Kind(flip=False),
    "STL10": _Kind(),
    "SUN397": _Kind(),
    "SVHN": _Kind(flip=False),
    "StanfordCars": _Kind(),
    "USPS": _Kind(flip=False),
}
"""torchvision's data sets whose items are an image and one class label."""


def torchvision_name(name: str) -> str:
    """The name of torchvision's class, given in any case.

    Raises:
        ArgumentError: for a name that is no classification set.
    """
    kinds = {kind.casefold(): kind for kind in TORCHVISION_SETS}
    if name.casefold() not in kinds:
        raise ArgumentError(
            "dataset",
            f"must be, after torchvision:, one of {', '.join(TORCHVISION_SETS)}, got {shown(name)}",
        )
    return kinds[name.casefold()]


def open_torchvision(name: str, root: Path) -> Sets:
    """A classification data set of torchvision, downloaded to `root` unless its files are there.

    Splits without labels are left out. Sets of one split have no `test`.

    Args:
        name: of torchvision's class, in any case, such as `flowers102`.
        root: folder of the files, as torchvision expects it.

    Raises:
        ValueError: for a name that is no classification set, or files that are neither there nor
            can be downloaded.
    """
    name = torchvision_name(name)
    from torchvision import datasets  # takes a second to import

    maker, kind = getattr(datasets, name), TORCHVISION_SETS[name]
    opened: dict[str, Any] = {}
    notes = [f"{name}: {argument} is {value!r}" for argument, value in kind.options.items()]
    for role, arguments in _split_arguments(maker, kind).items():
        part, label = _open(maker, root, {**kind.options, **arguments})
        if label is None:
            notes.append(f"{name}: its {role} split has no labels and is left out")
        else:
            opened[role] = part
    return sets_by_role(name, opened, notes)._replace(flip=kind.flip)


def _split_arguments(maker: Any, kind: _Kind) -> dict[str, dict[str, Any]]:
    """For each split that a data set has: the arguments that choose it."""
    if _takes(maker, "train"):
        return {"train": {"train": True}, "test": {"train": False}}
    if not _takes(maker, "split"):
        return {"train": {}}
    splits = {"train": kind.train, "val": kind.val, "test": kind.test}
    return {role: {"split": split} for role, split in splits.items() if split is not None}


def _takes(maker: Any, argument: str) -> bool:
    """Whether a class takes an argument, be it through its base class."""
    return any(argument in inspect.signature(kind).parameters for kind in maker.__mro__[:-1])


def _open(maker: Any, root: Path, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """The data set of these arguments and the label of its first item; downloaded if necessary.

    An error is enough to download it: each class has its own for files that are missing.
    """
    try:
        return _open_files(maker, root, **arguments)
    except ValueError:
        if not (_takes(maker, "download") and may_download()):
            raise
    return _open_files(maker, root, download=True, **arguments)


def _open_files(maker: Any, root: Path, **arguments: Any) -> tuple[Any, Any]:
    try:
        if _takes(maker, "download"):
            arguments.setdefault("download", False)  # the default of some is to download
        dataset = maker(root, **arguments)
        return dataset, _first_label(dataset)
    except MemoryError:
        raise
    except Exception as error:  # files that are damaged make readers raise anything
        raise missing_files(maker.__name__, root, error) from error


def _first_label(dataset: Any) -> Any:
    """The label of the first item whose image can be read."""
    labels, pictures = stored_labels(dataset), pictures_of(dataset)
    if labels is not None and pictures is not None:
        # A damaged picture is found when it is decoded, unless none is where it should be.
        if not any(Path(str(picture)).exists() for picture in pictures):
            raise FileNotFoundError(f"no {pictures[0]}")
        return labels[0]
    image, label = read_pair(dataset, 0, type(dataset).__name__)
    close_file(image)
    return label
