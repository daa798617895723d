"""Names of folders that say which split of a data set they hold."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from vit_patch_env.names import SplitName

_SPLITS: dict[str, SplitName] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

_FILLERS = {
    "set", "data", "dataset", "dir", "folder", "split",
    "image", "images", "img", "imgs", "picture", "pictures", "photos",
}  # fmt: skip
"""Words that say nothing about the content."""

_UNLABELLED = {
    "pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "inference",
    "submission", "sample", "samples", "example", "examples",
}  # fmt: skip
"""Words for images without labels, which data sets for practice have beside their splits."""

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+")
_GLUED = re.compile(f"({'|'.join(sorted(_SPLITS, key=len, reverse=True))})({'|'.join(_FILLERS)})")


class SplitWords(NamedTuple):
    """A split, and the words of a name that say neither the split nor nothing at all."""

    split: SplitName
    rest: tuple[str, ...]


def split_words(name: str) -> SplitWords | None:
    """The split that a name says; None if it says none, or two.

    "Train", "training_set" and "seg_train" say "train", the last with the rest ("seg",).
    """
    words = _words(name)
    said = [word for word in words if word in _SPLITS]
    if len(said) != 1:
        return None
    rest = tuple(word for word in words if word not in _SPLITS and word not in _FILLERS)
    return SplitWords(_SPLITS[said[0]], rest)


def names_of_splits(names: Iterable[str]) -> set[str]:
    """Those names that say a split beyond doubt.

    They say nothing else, or the same for two splits, such as "seg_train" and "seg_test".
    "bullet_train" and "test_tube" do not.
    """
    said = {name: words for name in names if (words := split_words(name))}
    splits: dict[tuple[str, ...], set[SplitName]] = {}
    for words in said.values():
        splits.setdefault(words.rest, set()).add(words.split)
    return {name for name, words in said.items() if not words.rest or len(splits[words.rest]) > 1}


def says_unlabelled(name: str) -> bool:
    """Whether a folder's name says that its images have no labels, such as "seg_pred"."""
    return not _UNLABELLED.isdisjoint(_words(name))


def is_wrapper(name: str, outer: str) -> bool:
    """Whether a folder in the folder `outer` repeats its name, or says nothing itself."""
    inner = split_words(name)
    around = split_words(outer)
    return (
        name.casefold() == outer.casefold()
        or (inner is not None and around is not None and inner.split == around.split)
        or all(word in _FILLERS for word in _words(name))
    )


def split_of_word(text: str) -> SplitName | None:
    """The split that a value of a column says, such as "train" or "Validation"."""
    return _SPLITS.get(text.strip().casefold())


def _words(name: str) -> list[str]:
    """The words of a name in lower case: "seg_trainSet2" has seg, train, set and 2."""
    words: list[str] = []
    for word in _WORD.findall(name):
        glued = _GLUED.fullmatch(word.casefold())
        words += glued.groups() if glued else [word.casefold()]
    return words
