"""Texts as token ids: vocabulary, splits, and docstrings of the standard library."""

import pickle

import numpy as np
import pytest
import torch

from vit_patch_env import from_texts, load_docstrings
from vit_patch_env.data.texts import CLASS_TOKEN, PADDING, SPECIAL, UNKNOWN, make_vocabulary, words

TEXTS = [f"{'cat' if i % 2 else 'dog'} number{i} runs" for i in range(60)]
LABELS = [i % 2 for i in range(60)]


def tiny_texts(**options):
    return from_texts(TEXTS, LABELS, ("dog", "cat"), **{"n_tokens": 4, **options})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Return the path.", ["return", "the", "path", "."]),
        ("__init__(x=1)\n  Größe", ["__init__", "(", "x", "=", "1", ")", "größe"]),
    ],
)
def test_words_are_in_lower_case_and_apart_from_punctuation(text, expected):
    assert words(text) == expected


def test_a_vocabulary_is_of_the_most_frequent_words_and_then_by_alphabet():
    texts = [["b", "a", "c"], ["c", "a", "d"], ["c"]]
    assert make_vocabulary(texts, 3) == (*SPECIAL, "c", "a", "b")
    assert (SPECIAL[PADDING], SPECIAL[UNKNOWN], SPECIAL[CLASS_TOKEN]) == ("[PAD]", "[UNK]", "[CLS]")


def test_the_vocabulary_is_made_of_the_training_texts_alone():
    data = tiny_texts()
    numbers = {word for word in data.vocabulary if word.startswith("number")}
    assert len(numbers) == len(data.train.labels)
    for split in (data.val, data.test):
        assert (split.images[:, 1] == UNKNOWN).all()
        assert not (split.images[:, [0, 2]] == UNKNOWN).any()
    assert not (data.train.images == UNKNOWN).any()


@pytest.mark.parametrize(("n_tokens", "n_padding"), [(2, 0), (3, 0), (5, 2)])
def test_texts_are_cut_or_padded_at_the_end(n_tokens, n_padding):
    data = tiny_texts(n_tokens=n_tokens)
    assert data.size == (1, n_tokens)
    assert data.train.images.dtype == torch.int64
    assert ((data.train.images == PADDING).sum(dim=1) == n_padding).all()
    assert (data.train.images[:, 0] != PADDING).all()
    shown = data.shown(data.train.images[:1])[0]
    assert shown[0] in ("cat", "dog")
    assert shown.count("") == n_padding


def test_splits_are_stratified_disjoint_and_seeded():
    data = tiny_texts(n_words=100)
    counts = [len(split.labels) for split in (data.train, data.val, data.test)]
    assert counts == [43, 5, 12]
    assert torch.bincount(data.test.labels).tolist() == [6, 6]
    assert data.digest() == tiny_texts(n_words=100).digest()
    assert data.digest() != tiny_texts(n_words=100, seed=1).digest()
    assert not data.notes


def test_texts_that_are_tested_and_trained_on_are_counted():
    data = from_texts(["a cat"] * 20 + ["a dog"] * 20, [0] * 20 + [1] * 20, ("cat", "dog"))
    assert data.notes[0].startswith("8 of 8 test texts are also training texts, such as text ")


def test_texts_can_be_pickled():
    data = tiny_texts()
    copied = pickle.loads(pickle.dumps(data))
    assert copied.digest() == data.digest()
    assert copied.vocabulary == data.vocabulary


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_tokens": 0}, r"n_tokens must be in \[1, inf\), got 0"),
        ({"n_words": 1.5}, r"n_words must be an integer in \[1, inf\), got 1.5"),
        ({"val_fraction": 1.0}, r"val_fraction must be in \(0, 1\), got 1.0"),
        ({"train_fraction": 0.02}, "train_fraction must leave at least one text of each of 2 cl"),
        ({"labels": LABELS[1:]}, "labels must be one for each of 60 texts, got 59"),
        ({"labels": [2, *LABELS[1:]]}, r"labels must be in \[0, 1\], got 2"),
        ({"labels": [0.5] * 60}, "labels must be integers, got "),
        ({"texts": [" ", *TEXTS[1:]]}, "expected texts of one word or more, got ' '"),
    ],
)
def test_what_texts_cannot_be_is_refused_in_one_line(options, message):
    texts, labels = options.pop("texts", TEXTS), options.pop("labels", LABELS)
    with pytest.raises(ValueError, match=message) as caught:
        from_texts(texts, labels, ("dog", "cat"), **{"n_tokens": 4, **options})
    assert "\n" not in str(caught.value)


def test_docstrings_are_real_texts_with_their_package_as_class():
    data = load_docstrings(packages=("logging", "http"), n_tokens=12)
    assert data.classes == ("logging", "http")
    assert "docstrings of Python 3." in data.notes[0]
    assert (data.train.images != PADDING).all()  # texts have 12 words or more
    counts = np.bincount(data.train.labels)
    assert counts.min() > 30
    assert {"logger", "handler", "cookie", "the", "."} <= set(data.vocabulary)
    assert data.digest() == load_docstrings(packages=("logging", "http"), n_tokens=12).digest()


def test_a_package_without_source_files_is_named():
    with pytest.raises(ValueError, match="source files of Python's package nothing, got none in"):
        load_docstrings(packages=("nothing",))
