"""Texts as token ids in three splits, so that a text classifier trains as a ViT does.

A text is a row of tokens as an image is a grid of patches. Nothing is cropped, mirrored or
normalised: see `EnvConfig.check`.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.checks import ArgumentError, InputError, check_integer, counted, shown
from vit_patch_env.data.images import Images
from vit_patch_env.data.sources import Parts, Positions, Source
from vit_patch_env.data.splits import SplitData, read_splits
from vit_patch_env.names import ImagesName
from vit_patch_env.system.memory import check_fits

PADDING, UNKNOWN, CLASS_TOKEN = range(3)
"""Ids of the special tokens, which come first in a vocabulary; no text has the class token."""

SPECIAL = ("[PAD]", "[UNK]", "[CLS]")


@dataclass(frozen=True)
class TextData(SplitData):
    """Texts, ready for training: `images` of a split are ids (n_texts, n_tokens) int64.

    Attributes:
        train: texts to train on.
        val: texts split off the training texts, for decisions during training.
        test: texts for final metrics only.
        classes: class names, by label.
        vocabulary: the tokens by id: padding, an unknown word, the class token, and words.
        notes: lines that tell a user what was read.
    """

    vocabulary: tuple[str, ...]

    flip: ClassVar[bool] = False

    @property
    def n_tokens(self) -> int:
        """Tokens of a text, padding included."""
        return self.train.images.shape[1]

    @property
    def channels(self) -> int:
        """Size of the vocabulary: the channels of a token that is one-hot encoded."""
        return len(self.vocabulary)

    @property
    def size(self) -> tuple[int, int]:
        """A row of tokens: (1, n_tokens)."""
        return 1, self.n_tokens

    def blank(self, n_texts: int, device: torch.device) -> Tensor:
        """A model's input of nothing but padding: (n_texts, n_tokens) int64."""
        return torch.full((n_texts, self.n_tokens), PADDING, dtype=torch.int64, device=device)

    def shown(self, ids: Tensor) -> list[list[str]]:
        """The words of ids (n_texts, n_tokens); nothing for padding."""
        return [
            ["" if one == PADDING else self.vocabulary[one] for one in text]
            for text in ids.tolist()
        ]

    def digest(self) -> str:
        """A checksum of the training texts' ids and of the vocabulary."""
        ids = self.train.images[:].cpu().numpy().astype("<i8")
        return hashlib.sha256(ids.tobytes() + "\n".join(self.vocabulary).encode()).hexdigest()


class TokenIds:
    """What `Normalize` is to images: token ids are a model's input as they are.

    Attributes:
        device: of the ids.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, items: Tensor) -> Tensor:
        """The ids."""
        return items

    def inverse(self, items: Tensor) -> Tensor:
        """The ids."""
        return items


def from_texts(
    texts: Sequence[str],
    labels: Sequence[int],
    classes: Sequence[str],
    *,
    n_tokens: int = 32,
    n_words: int = 2000,
    train_fraction: float = 1.0,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> TextData:
    """Texts as token ids, in stratified splits.

    Tokens are words and punctuation marks in lower case. The vocabulary consists of the most
    frequent ones of the training texts; others are unknown. Texts are cut, or padded at the end.

    Args:
        texts: (n_texts,).
        labels: (n_texts,) of the classes.
        classes: their names.
        n_tokens: tokens of a text.
        n_words: words in the vocabulary, at most.
        train_fraction: share of the training texts to use, in (0, 1].
        val_fraction: share of those for validation, in (0, 1).
        seed: of the splits.

    Raises:
        ValueError: for labels that do not fit, a number or a share out of range, a text without a
            word, or a class with too few texts.
    """
    check_integer(1, n_tokens=n_tokens)
    check_integer(1, n_words=n_words)
    if len(labels) != len(texts):
        raise ArgumentError(
            "labels", f"must be one for each of {counted(len(texts), 'text')}, got {len(labels)}"
        )
    source = _TextSource(texts, np.asarray(labels), tuple(classes), n_tokens, n_words)
    splits, notes, names = read_splits(
        source, train_fraction=train_fraction, val_fraction=val_fraction, seed=seed
    )
    return TextData(*splits, source.classes, source.vocabulary, notes=notes, test_names=names)


def words(text: str) -> list[str]:
    """Words, numbers and punctuation marks of a text, in lower case."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def make_vocabulary(texts: Iterable[Sequence[str]], n_words: int) -> tuple[str, ...]:
    """The special tokens and the most frequent words; of equally frequent ones, by alphabet."""
    counts = Counter(word for text in texts for word in text)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return *SPECIAL, *ranked[:n_words]


class _TextSource(Source):
    """Texts in memory; the vocabulary is made when it is known which of them are trained on."""

    item = "text"

    def __init__(
        self,
        texts: Sequence[str],
        labels: NDArray[np.int64],
        classes: tuple[str, ...],
        n_tokens: int,
        n_words: int,
    ) -> None:
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ArgumentError("labels", f"must be integers, got {shown(labels)}")
        if len(labels):
            check_integer(0, len(classes) - 1, labels=labels.min())
            check_integer(0, len(classes) - 1, labels=labels.max())
        super().__init__(
            labels.astype(np.int64), Parts(np.arange(len(labels))), classes, flip=False
        )
        self._texts = [words(text) for text in texts]
        for text, found in zip(texts, self._texts, strict=True):
            if not found:
                raise InputError(f"expected texts of one word or more, got {shown(text)}")
        self._n_tokens = n_tokens
        self._n_words = n_words
        self.vocabulary: tuple[str, ...] = ()

    def contents(self, positions: Positions, images: Images) -> Sequence[Hashable]:
        """The texts."""
        del images
        return [tuple(self._texts[position]) for position in positions]

    def read(self, positions: Sequence[Positions], images: ImagesName) -> list[Images]:
        """Ids (n_texts, n_tokens) of the texts at each of the positions, training texts first."""
        del images
        train, *_ = positions
        self.vocabulary = make_vocabulary((self._texts[i] for i in train), self._n_words)
        n_values = sum(map(len, positions)) * self._n_tokens
        check_fits(8 * n_values, f"texts of {counted(self._n_tokens, 'token')}")
        id_of = {word: id_ for id_, word in enumerate(self.vocabulary)}
        return [
            torch.tensor([self._ids(self._texts[i], id_of) for i in part], dtype=torch.int64)
            for part in positions
        ]

    def _ids(self, text: Sequence[str], id_of: dict[str, int]) -> list[int]:
        ids = [id_of.get(word, UNKNOWN) for word in text[: self._n_tokens]]
        return ids + [PADDING] * (self._n_tokens - len(ids))
