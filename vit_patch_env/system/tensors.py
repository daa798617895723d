"""Whether what a file unpacked to is plain data and tensors of its own size."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vit_patch_env.checks import InputError
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
