"""Hostile values, and trees of plain data with such a value in some place."""

import numpy as np
import torch

from vit_patch_env.reading import JSON_DEPTH


def nested(depth, inner=None):
    for _ in range(depth):
        inner = [inner]
    return inner


PLAIN = [
    None, True, False, 0, 1, 2, 3, -1, 7, 64, 0.5, -0.5, 1.5, -0.0, 1e-300, 1e300, 1e30, 2**31,
    2**63, 2**64, 10**20, 10**300, float("nan"), float("inf"), float("-inf"), "", "x", "0", "auto",
    "digits", "folder", "cuda:7", "meta", "../..", "/dev/zero", "a\0b", "\ud800", "\udc80", "é" * 3,
    "<script>alert(1)</script>", "\x1b[31m", "$\\frac{$", "[/red]", "|", "line\nline", "y" * 20_000,
    [], {}, [[]], {"": {}}, [1, 2], {"a": 1}, nested(JSON_DEPTH - 8), nested(150), [0] * 5000,
]  # fmt: skip

TENSORS = [
    torch.zeros(0), torch.zeros(3, 3), torch.full((2,), float("nan")), torch.zeros(2).bfloat16(),
    torch.zeros(1, dtype=torch.complex64), torch.arange(5), torch.zeros(1).expand(10**12),
    torch.zeros(1).to_sparse(), torch.tensor(0.5), torch.zeros(5056, dtype=torch.uint8),
]  # fmt: skip


def chosen(rng, items):
    """One of the items, which NumPy would make an array of."""
    return items[int(rng.integers(len(items)))]


def places(value, place=()):
    """Every place in a tree."""
    yield place
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*place, key))


def at(value, place):
    for key in place:
        value = value[key]
    return value


def replaced(value, place, new):
    """A copy of a tree with another value in a place."""
    if not place:
        return new
    key, *rest = place
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = replaced(value[key], rest, new)
    return tuple(copy) if isinstance(value, tuple) else copy


def changed(rng, value, hostile):
    """A copy of a tree with one to three changes: values, types, places, names."""
    for _ in range(int(rng.integers(1, 4))):
        found = list(places(value))
        place = chosen(rng, found)
        kind = rng.integers(12)
        if kind >= 8:  # often accepted
            new = alike(rng, at(value, place))
        elif kind == 0:  # swapped with another place
            new = at(value, chosen(rng, found))
        elif kind == 1 and isinstance(at(value, place), dict | list):
            new = without(rng, at(value, place))
        elif kind == 2 and isinstance(at(value, place), int | float):
            new = at(value, place) * chosen(rng, [-1, 2, 0.5, 1e9, 10**9])
        elif kind == 3:
            new = repr(at(value, place))[:100]
        elif kind == 4:
            new = [at(value, place)]
        else:
            new = chosen(rng, hostile)
        value = replaced(value, place, new)
    return value


WORDS = [
    "digits", "cifar10", "torchvision:EuroSAT", "hf:/nowhere", "simple_vit", "vit", "evit", "paper",
    "ppo", "bandit", "random", "none", "none+run", "paper", "flops", "epochs", "count", "cosine",
    "adamw", "/nowhere", "stream", "pad", "bf16", "uniform",
]  # fmt: skip


def alike(rng, value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chosen(rng, [0, 1, 2, 3, 8, 16, 32, 64, 1000, 10**6])
    if isinstance(value, float):
        return chosen(rng, [0.0, 0.1, 0.5, 1.0, 3.5, 100.0])
    if isinstance(value, str) or value is None:
        return chosen(rng, [*WORDS, None, 4, 0.5])
    return value


def without(rng, container):
    """A copy of a container without one of its items, or with one more."""
    keys = list(container if isinstance(container, dict) else range(len(container)))
    if not keys:
        return container
    gone = chosen(rng, keys)
    if isinstance(container, dict):
        renamed = {"other": container[gone]} if rng.integers(2) else {}
        return {key: one for key, one in container.items() if key != gone} | renamed
    return container[:gone] + container[gone + 1 :] + [container[gone]] * int(rng.integers(3))


def generator(seed, case):
    """The random numbers of a case, which it can be repeated with."""
    return np.random.default_rng([seed, case])
