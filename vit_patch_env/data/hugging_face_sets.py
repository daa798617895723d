"""Hugging Face data sets in local files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.data.items import IMAGE_KEYS, LABEL_KEYS, one_line
from vit_patch_env.data.named_sets import Sets, sets_by_role
from vit_patch_env.system.cache import HUGGING_FACE, cache_dir
from vit_patch_env.system.shown import escaped, listed

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
            raise InputError(f"expected one {role} split in {escaped(root)}, got several")
        elif all(label in (-1, None) for label in part["label"]):
            notes.append(f"{name}: its {role} split has no labels and is left out")
        else:
            opened[role] = part
    if "train" not in opened:
        raise InputError(
            f"expected a train split with labels in {escaped(root)}, got {listed(list(splits))}"
        )
    return sets_by_role(name, opened, notes)


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
        raise InputError(
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
        raise InputError(
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
            raise InputError(
                "expected Parquet files named by their split, such as train-00000.parquet or "
                f"train/00000.parquet, got {escaped(file)}"
            )
        splits.setdefault(split, []).append(file)
    for split, parts in splits.items():
        folders = sorted({file.parent for file in parts})
        if len(folders) > 1:
            raise InputError(
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
        raise InputError(
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
