"""The names of data sets, checked without importing what loads them."""

from typing import get_args

from vit_patch_env.checks import ArgumentError, shown
from vit_patch_env.names import DATASET_PREFIXES, DatasetName


def check_dataset_name(name: str) -> None:
    """Refuse what is neither a `DatasetName` nor begins with one of `DATASET_PREFIXES`.

    Raises:
        ArgumentError: with the names.
    """
    known = get_args(DatasetName)
    if name not in known and not name.startswith(DATASET_PREFIXES):
        raise ArgumentError(
            "dataset",
            f"must be one of {', '.join(known)}, torchvision:<class>, hf:<path>, got {shown(name)}",
        )
