"""Data sets by name: torchvision's for classification, and Hugging Face folders."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from vit_patch_env.checks import ArgumentError, shown
from vit_patch_env.data.items import IMAGE_KEYS, LABEL_KEYS, close_file, one_line, read_pair
from vit_patch_env.data.labels import class_names, listed
from vit_patch_env.system.cache import HUGGING_FACE, cache_dir
from vit_patch_env.system.shown import escaped


class Sets(NamedTuple):
    """A data set's splits, of items as `read_item` takes them.

    `val` and `test` are None where it has none with labels, and `classes`, the class names by label
    of `train`, where it has no names. `notes` are lines to print: what was left out or chosen.
    `flip` is whether a mirrored image still belongs to its class.
    """

    train: Dataset[Any]
    val: Dataset[Any] | None
    test: Dataset[Any] | None
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    flip: bool = True


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
    return _sets(name, opened, notes)._replace(flip=kind.flip)


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
        if not _takes(maker, "download"):
            raise
    return _open_files(maker, root, download=True, **arguments)


def _open_files(maker: Any, root: Path, **arguments: Any) -> tuple[Any, Any]:
    try:
        if _takes(maker, "download"):
            arguments.setdefault("download", False)  # the default of some is to download
        dataset = maker(root, **arguments)
        image, label = read_pair(dataset, 0, maker.__name__)
        close_file(image)
    except MemoryError:
        raise
    except Exception as error:  # files that are damaged make readers raise anything
        raise ValueError(
            f"expected the files of {maker.__name__} in {escaped(root)} or a network to download "
            f"them from, got: {one_line(error)}"
        ) from error
    return dataset, label


def _sets(name: str, opened: dict[str, Any], notes: list[str]) -> Sets:
    """The splits by role; without a test split, the validation split is it."""
    if "test" not in opened and "val" in opened:
        opened["test"] = opened.pop("val")
        notes.append(f"{name}: its validation split is the test split")
    train = opened["train"]
    return Sets(train, opened.get("val"), opened.get("test"), class_names(train), tuple(notes))


_ROLES = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
}  # fmt: skip
"""Roles of splits by the names that they have in Hugging Face data sets."""


def open_hugging_face(path: str | Path) -> Sets:
    """A Hugging Face data set in local files. Nothing is downloaded.

    Of its columns, the image is that of `IMAGE_KEYS` and the label that of `LABEL_KEYS`, otherwise
    the only one of the type `Image` and the only one of the type `ClassLabel`. Splits without
    labels, which are -1 there, are left out.

    Args:
        path: a folder written by `save_to_disk`; a folder of Parquet files named by their split,
            such as `train-00000-of-00001.parquet` or `test/0000.parquet`; or a Parquet file.

    Raises:
        ValueError: for anything else, columns that are not found, or without the extra `hf`.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise ArgumentError(
            "dataset",
            "must be, after hf:, a local folder or Parquet file, as nothing is downloaded, "
            f"got {escaped(root)}: no such file or folder",
        )
    name = escaped(root.name)
    opened: dict[str, Any] = {}
    notes = []
    splits = _read_hugging_face(root)
    for split, part in splits.items():
        # A single split is what there is to train on, whatever its name.
        role = "train" if len(splits) == 1 else _ROLES.get(split.casefold())
        if role is None:
            notes.append(f"{name}: its split {escaped(split)} is left out")
        elif role in opened:
            raise ValueError(f"expected one {role} split in {escaped(root)}, got several")
        elif all(label in (-1, None) for label in part["label"]):
            notes.append(f"{name}: its {role} split has no labels and is left out")
        else:
            opened[role] = part
    if "train" not in opened:
        raise ValueError(
            f"expected a train split with labels in {escaped(root)}, got {listed(list(splits))}"
        )
    return _sets(name, opened, notes)


def _read_hugging_face(root: Path) -> dict[str, Any]:
    """The splits by name, each with the columns `image` and `label`."""
    try:
        import datasets  # takes seconds to import
    except ImportError as error:
        raise ArgumentError(
            "dataset",
            f"'hf:{escaped(root)}' needs the extra hf, pip install 'vit-patch-env[hf]', "
            f"got: {one_line(error)}",
        ) from error
    saved = (root / "state.json").is_file() or (root / "dataset_dict.json").is_file()
    files = {} if saved else _parquet_files(root)
    cache = str(cache_dir() / HUGGING_FACE)
    try:
        if saved:
            loaded = datasets.load_from_disk(str(root))
        else:
            loaded = {
                split: datasets.Dataset.from_parquet([str(file) for file in files], cache_dir=cache)
                for split, files in files.items()
            }
    except MemoryError:
        raise
    except Exception as error:  # pyarrow's errors are of many kinds
        raise ValueError(
            f"expected a Hugging Face data set that can be read in {escaped(root)}, "
            f"got: {one_line(error)}"
        ) from error
    splits = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    return {
        name: _image_and_label(split, f"the split {escaped(name)} of {escaped(root)}")
        for name, split in splits.items()
    }


def _parquet_files(root: Path) -> dict[str, list[Path]]:
    """Parquet files by the split that begins their name, or that their folder is named after."""
    if root.is_file():
        files = [root] if root.suffix.casefold() == ".parquet" else []
    else:
        files = sorted(file for file in root.rglob("*.parquet") if file.is_file())
    if not files:
        raise ValueError(
            "expected a folder that save_to_disk has written, or Parquet files, "
            f"got none in {escaped(root)}"
        )
    if len(files) == 1:
        return {"train": files}
    splits: dict[str, list[Path]] = {}
    for file in files:
        names = re.split(r"[-_.]", file.stem)[0], file.parent.name
        split = next((name for name in names if name.casefold() in _ROLES), None)
        if split is None:
            raise ValueError(
                "expected Parquet files named by their split, such as train-00000.parquet or "
                f"train/00000.parquet, got {escaped(file)}"
            )
        splits.setdefault(split, []).append(file)
    for split, parts in splits.items():
        folders = sorted({file.parent for file in parts})
        if len(folders) > 1:
            raise ValueError(
                f"expected the Parquet files of the split {escaped(split)} in one folder, "
                f"got {escaped(folders[0])} and {escaped(folders[1])}"
            )
    return splits


def _image_and_label(dataset: Any, where: str) -> Any:
    """A Hugging Face data set with only its columns of images and labels, so named."""
    import datasets

    features = dataset.features
    image = _column(features, IMAGE_KEYS, datasets.Image)
    label = _column(features, LABEL_KEYS, datasets.ClassLabel)
    if image is None or label is None:
        raise ValueError(
            f"expected a column of {', '.join(IMAGE_KEYS)}, or one of the type Image, and one of "
            f"{', '.join(LABEL_KEYS)}, or one of the type ClassLabel, in {where}, "
            f"got {listed(list(features))}"
        )
    # Files that other programs have written hold bytes, not the type Image.
    encoded = isinstance(features[image], dict) or str(features[image]) == "Value('binary')"
    dataset = dataset.with_format(None).select_columns([image, label])
    if encoded or isinstance(features[image], datasets.Image):
        dataset = dataset.cast_column(image, datasets.Image())
    renamed = {image: IMAGE_KEYS[0], label: LABEL_KEYS[0]}
    return dataset.rename_columns({old: new for old, new in renamed.items() if old != new})


def _column(features: Mapping[str, Any], names: tuple[str, ...], kind: type) -> str | None:
    """The first column of these names, or the only one of this type; None if there is neither."""
    of_kind = [column for column in features if isinstance(features[column], kind)]
    named = next((name for name in names if name in features), None)
    return named or (of_kind[0] if len(of_kind) == 1 else None)
