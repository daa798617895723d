"""Whether what a file unpacked to is plain data and tensors of its own size."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vit_patch_env.checks import InputError, shown
from vit_patch_env.reading import MEGABYTE, size_in_words

_DEPTH = 100
"""Of containers in each other; ours have less than 20."""

_VIEW_BYTES = 64 * MEGABYTE
"""Of a tensor that repeats its elements, as `expand` does, and so may be of any size."""


def check_plain(state: Any, n_bytes: int) -> None:
    """Refuse what would be much larger, once it is copied, than the file that it came from.

    A file can name one list or one number many times over.

    Args:
        state: that was unpickled.
        n_bytes: of the file.

    Raises:
        InputError: if it is nested deeply, has more items than the file has bytes, or a tensor
            that is not one of numbers in memory; says what came.
    """
    n_items = 0
    level = [state]
    for _ in range(_DEPTH):
        inner: list[Any] = []
        for one in level:
            for item in _items(one):
                n_items += 1
                if n_items > n_bytes:
                    raise InputError("more items than the file has bytes")
                if isinstance(item, Tensor):
                    _check_tensor(item)
                elif isinstance(item, dict | list | tuple | set | frozenset):
                    inner.append(item)
        if not inner:
            return
        level = inner
    raise InputError(f"containers nested more than {_DEPTH} deep")


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    else:
        yield from (value,) if isinstance(value, Tensor) else ()


def _check_tensor(tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise InputError(f"a tensor of layout {tensor.layout} on {tensor.device}")
    n_bytes = tensor.numel() * tensor.element_size()
    if n_bytes > max(tensor.untyped_storage().nbytes(), _VIEW_BYTES):
        raise InputError(f"a tensor of {size_in_words(n_bytes)} that repeats its elements")


def check_optimizer_state(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Refuse a state of an optimizer that its `load_state_dict` takes and its steps fail on.

    Args:
        optimizer: that will be loaded, with groups of the same options.
        state: of another one.

    Raises:
        InputError: naming the option or the parameter whose value is of another type or shape.
    """
    groups = state["param_groups"] if isinstance(state, dict) and "param_groups" in state else ()
    if len(groups) != len(optimizer.param_groups):
        raise InputError(f"{len(groups)} groups of an optimizer")
    for own, group in zip(optimizer.param_groups, groups, strict=True):
        for name, value in own.items():
            if name != "params" and not _alike(value, group.get(name)):
                raise InputError(f"{name} {shown(group.get(name))} of an optimizer")
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    numbers = [number for group in groups for number in group["params"]]
    shapes = dict(zip(numbers, (one.shape for one in parameters), strict=True))
    if len({frozenset(values) for values in state["state"].values()}) > 1:
        raise InputError("other values for some parameters than for others of an optimizer")
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape not in (shapes.get(number), ()):
                raise InputError(f"{name} of shape {tuple(value.shape)} of an optimizer")


def _alike(own: Any, value: Any) -> bool:
    """Whether two options of an optimizer are of one kind."""
    if isinstance(own, tuple | list):
        same = isinstance(value, tuple | list) and len(value) == len(own)
        return same and all(map(_alike, own, value))
    if isinstance(own, bool) or own is None:
        return value is None or isinstance(value, bool)
    if isinstance(own, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type(own))
