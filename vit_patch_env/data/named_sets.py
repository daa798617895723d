"""The splits of data sets that are known by name."""

from typing import Any, NamedTuple

from torch.utils.data import Dataset

from vit_patch_env.data.labels import class_names


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


def sets_by_role(name: str, opened: dict[str, Any], notes: list[str]) -> Sets:
    """The splits by role; without a test split, the validation split is it."""
    if "test" not in opened and "val" in opened:
        opened["test"] = opened.pop("val")
        notes.append(f"{name}: its validation split is the test split")
    train = opened["train"]
    return Sets(train, opened.get("val"), opened.get("test"), class_names(train), tuple(notes))
