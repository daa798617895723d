"""Labels of people's data sets: read without their images if possible, and matched by name."""

import sys
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from vit_patch_env.checks import ArgumentError, InputError, counted
from vit_patch_env.data.generators import seeded_generators
from vit_patch_env.data.images import UNTRAINED
from vit_patch_env.data.items import (
    LABEL_KEYS,
    ItemError,
    Label,
    close_file,
    label_of,
    n_items,
    read_pair,
)
from vit_patch_env.system.shown import listed

Labels = Mapping[int, Label]
"""Labels of a data set's items, by their index."""

TRAINING_SET = "the training set"
VALIDATION_SET = "the validation set"
TEST_SET = "the test set"

_N_COMPARED = 8
"""Classes of which an item is read to see whether a data set's own list of labels is right."""


class Numbered(NamedTuple):
    """Labels (n_items,) int64 as indices into `classes`; `test` is None without a test set."""

    train: NDArray[np.int64]
    test: NDArray[np.int64] | None
    classes: tuple[str, ...]


def known_labels(dataset: Any, where: str) -> list[Label] | None:
    """The labels that a data set keeps apart from its images; None if it keeps none.

    Known are the attributes of torchvision's data sets, also within `Subset` and `ConcatDataset`,
    the second tensor of a `TensorDataset`, and the columns of Hugging Face data sets. An item each
    of some classes is read, and the labels are not used if they differ from the items'.

    Raises:
        ValueError: as `n_items`, `split_item` and `label_of`.
    """
    n = n_items(dataset, where)
    stored = stored_labels(dataset)
    if stored is None or len(stored) != n:
        return None
    try:
        labels = [label_of(label, where) for label in stored]
    except ValueError:  # no labels, or wrong ones, which are found at their index
        return None
    first_of = {label: index for index, label in reversed(list(enumerate(labels)))}
    compared = {*sorted(first_of.values())[:_N_COMPARED], n - 1}
    with seeded_generators(UNTRAINED, 0, torch.device("cpu")):  # items may be random
        differs = any(_differs(dataset, index, labels[index], where) for index in compared)
    return None if differs else labels


def _differs(dataset: Any, index: int, label: Label, where: str) -> bool:
    """Whether an item can be read and has another label."""
    try:
        image, value = read_pair(dataset, index, where)
        close_file(image)
        return label_of(value, f"item {index} of {where}") != label
    except ItemError:  # which matters if the item is used
        return False


def class_names(dataset: Any) -> tuple[str, ...] | None:
    """The names of a data set's classes, by label; None if it has none.

    They are the attribute `classes`, `class_to_idx` or `categories`, also within `Subset` and
    `ConcatDataset`, or those of a Hugging Face `ClassLabel`. A data set with a `target_transform`,
    after which they may not apply, has none.

    Raises:
        ValueError: for a `ConcatDataset` of data sets with different classes.
    """
    if isinstance(dataset, Subset):
        return class_names(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        names, *others = [class_names(part) for part in dataset.datasets]
        for other in others:
            if other != names:
                raise InputError(
                    "expected the same classes in all parts of a ConcatDataset, "
                    f"got {listed(names or ('none',))} and {listed(other or ('none',))}"
                )
        return names
    if is_hugging_face(dataset):
        key = next((key for key in LABEL_KEYS if key in dataset.features), None)
        return _distinct(getattr(dataset.features[key], "names", None)) if key else None
    if getattr(dataset, "target_transform", None) is not None:
        return None
    index = getattr(dataset, "class_to_idx", None)
    by_label = None
    if isinstance(index, Mapping) and sorted(index.values()) == list(range(len(index))):
        by_label = sorted(index, key=index.__getitem__)
    return (
        _distinct(getattr(dataset, "classes", None))
        or _distinct(by_label)
        or _distinct(getattr(dataset, "categories", None))
    )


def number_labels(
    train: Labels,
    test: Labels | None,
    train_names: Sequence[str] | None = None,
    test_names: Sequence[str] | None = None,
) -> Numbered:
    """Labels as indices into the class names.

    Args:
        train: the training set's labels by item: integers from 0, or text.
        test: the test set's.
        train_names: class names by label. Without names, integers belong to the classes of the same
            number; the classes are then those that occur, in order.
        test_names: the test set's. Classes are matched by name. If only one set has names, they are
            taken for both sets' integers.

    Raises:
        ValueError: for labels without a name, integers beside text, fewer than two classes, or
            classes of the test set without training images.
    """
    if train_names is not None and len(train_names) < 2:
        raise InputError(f"expected at least two classes, got {listed(train_names)}")
    keys = _keys(train, train_names, test_names, TRAINING_SET)
    test_keys = None if test is None else _keys(test, test_names, train_names, TEST_SET)
    if test_keys is not None and isinstance(keys[0], str) != isinstance(test_keys[0], str):
        raise InputError(
            "expected labels of one kind, integers or text, "
            f"got {keys[0]!r} in {TRAINING_SET} and {test_keys[0]!r} in {TEST_SET}"
        )
    first = next(iter(train.values()))
    names = train_names or (None if isinstance(first, str) else test_names)
    used = set(keys)
    classes = _classes(used, names)
    if test_keys is not None and not used.issuperset(test_keys):
        missing = sorted(set(test_keys) - used)
        raise InputError(
            f"expected images of every class of {TEST_SET} in {TRAINING_SET}, "
            f"got none of {listed(missing)}"
        )
    return Numbered(
        _indices(keys, classes),
        None if test_keys is None else _indices(test_keys, classes),
        tuple(str(key) for key in classes),
    )


class NumberedSets(NamedTuple):
    """Labels (n_items,) int64 of all sets, one after the other, as indices into `classes`."""

    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def number_sets(
    datasets: Sequence[Any], labels: Sequence[Labels], classes: Sequence[str] | None
) -> NumberedSets:
    """Labels of a training set and of other sets as indices into the class names.

    Args:
        datasets: the training set, then the others.
        labels: of each data set, by item.
        classes: replace the data sets' names if given.

    Raises:
        ValueError: as `number_labels`, for sets with different classes, or names that do not fit.
    """
    if classes is not None and len(set(classes)) < len(classes):
        raise ArgumentError("classes", f"must be different names, got {listed(classes)}")
    names, *other_names = [class_names(dataset) for dataset in datasets]
    train, *others = labels
    each = [
        number_labels(train, other, names or classes, own or (None if names else classes))
        for other, own in (zip(others, other_names, strict=True) if others else ((None, None),))
    ]
    if any(numbered.classes != each[0].classes for numbered in each):
        raise InputError(
            "expected the same classes beside the training set and each other set, "
            f"got {listed(each[0].classes)} and {listed(each[-1].classes)}"
        )
    of_others = [numbered.test for numbered in each if numbered.test is not None]
    numbers, own = np.concatenate([each[0].train, *of_others]), each[0].classes
    if classes is None or tuple(classes) == own:
        return NumberedSets(numbers, own)
    if len(classes) != len(own) or set(classes) == set(own):
        raise ArgumentError(
            "classes",
            f"must be names for the data set's {counted(len(own), 'class')} in their order, "
            f"{listed(own)}, got {listed(classes)}",
        )
    return NumberedSets(numbers, tuple(classes))


def _keys(
    labels: Labels, own: Sequence[str] | None, other: Sequence[str] | None, where: str
) -> list[Label]:
    """What identifies each label's class: its name, or its number if there are no names."""
    first, first_label = next(iter(labels.items()))
    text = isinstance(first_label, str)
    for index, label in labels.items():
        if isinstance(label, str) != text:
            raise InputError(
                f"expected labels of one kind, integers or text, got {first_label!r} in item "
                f"{first} and {label!r} in item {index} of {where}"
            )
    names = own if text else own or other
    if not names:
        return list(labels.values())
    known: Container[Label] = set(names) if text else range(len(names))
    for index, label in labels.items():
        if label not in known:
            limits = "one of the classes" if text else f"in [0, {len(names) - 1}], for the classes"
            raise InputError(
                f"{'label' if text else 'highest label'} must be {limits} {listed(names)}, "
                f"got {label!r} in item {index} of {where}"
            )
    keys: list[Label] = [
        label if isinstance(label, str) else names[label] for label in labels.values()
    ]
    return keys


def _classes(used: set[Label], names: Sequence[str] | None) -> list[Label]:
    """The names, or the sorted labels if there are none; at least two, and two of them used."""
    classes: list[Label] = [*names] if names else sorted(used)
    if len(classes) < 2:
        raise InputError(f"expected at least two classes, got {listed(classes)}")
    if len(used) < 2:
        raise InputError(
            f"expected images of at least two classes in {TRAINING_SET}, "
            f"got only those of {listed(list(used))}"
        )
    return classes


def _indices(keys: Sequence[Label], classes: Sequence[Label]) -> NDArray[np.int64]:
    numbers = {key: number for number, key in enumerate(classes)}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def stored_labels(dataset: Any) -> Sequence[Any] | None:
    """The labels that a data set keeps in a list or an array, as they are; None if there are none.

    They are only what its attributes look like.
    """
    if isinstance(dataset, Subset):
        inner = stored_labels(dataset.dataset)
        return None if inner is None else [inner[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        labels: list[Any] = []
        for part in dataset.datasets:
            stored = stored_labels(part)
            if stored is None:
                return None
            labels += stored
        return labels
    if isinstance(dataset, TensorDataset):
        return _listed_values(dataset.tensors[1]) if len(dataset.tensors) > 1 else None
    if is_hugging_face(dataset):
        return _column(dataset)
    for name in ("targets", "labels", "_labels", "y"):
        values = _listed_values(getattr(dataset, name, None))
        if values is not None:
            break
    else:
        samples = getattr(dataset, "samples", getattr(dataset, "_samples", None))
        if isinstance(samples, list) and all(
            isinstance(sample, tuple) and len(sample) == 2 for sample in samples
        ):
            values = [label for _, label in samples]
    transform = getattr(dataset, "target_transform", None)
    return values if values is None or transform is None else [transform(x) for x in values]


def _listed_values(values: Any) -> list[Any] | None:
    if isinstance(values, Tensor | np.ndarray):
        return values.tolist() if values.ndim == 1 else None
    return list(values) if isinstance(values, list | tuple) else None


def _column(dataset: Any) -> Sequence[Any] | None:
    """The labels of a Hugging Face data set, without decoding its images."""
    key = next((key for key in LABEL_KEYS if key in dataset.column_names), None)
    return None if key is None else dataset.select_columns([key]).with_format(None)[:][key]


def is_hugging_face(dataset: Any) -> bool:
    """Whether this is a map-style data set of the library datasets."""
    datasets = sys.modules.get("datasets")  # imported already if this is one of its data sets
    kind = getattr(datasets, "Dataset", None)
    return kind is not None and isinstance(dataset, kind) and hasattr(dataset, "features")


def _distinct(names: Any) -> tuple[str, ...] | None:
    """Class names, each once: of those that occur again, with their number; None for no names.

    ImageNet's are tuples of synonyms, and it has two classes called "crane".
    """
    if not isinstance(names, list | tuple | np.ndarray) or not len(names):
        return None
    synonyms = [name if isinstance(name, tuple) else (name,) for name in names]
    if not all(isinstance(word, str) for words in synonyms for word in words):
        return None
    joined = [", ".join(words) for words in synonyms]
    counts = Counter(joined)
    return tuple(
        str(name) if counts[name] == 1 else f"{name} ({number})"
        for number, name in enumerate(joined)
    )
