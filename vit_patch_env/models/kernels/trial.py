"""A compiled kernel's answers on a small input, compared with NumPy's, before it is used."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BATCH, _TOKENS, _HEADS, _DIM = 2, 5, 2, 32
_SCALE = _DIM**-0.5
_TOLERANCE = {False: 1e-4, True: 0.05}  # in bf16, of the values' own size


def answers_correctly(kernel: ctypes.CDLL, *, bf16: bool) -> bool:
    """Whether attention, its gradient and attention of scalars are right, about 1 ms.

    NumPy and not torch computes what is expected, as modes of torch may be active here.
    """
    rng = np.random.default_rng(0)
    qkv, gradient, tokens, weight = (
        _rounded(rng.standard_normal(shape, dtype=np.float32), bf16=bf16)
        for shape in (
            (_BATCH, _TOKENS, 3, _HEADS, _DIM), (_BATCH, _TOKENS, _HEADS, _DIM),
            (_BATCH, _TOKENS, _DIM), (2, _HEADS, _DIM, _DIM),
        )
    )  # fmt: skip
    scalars = rng.standard_normal((_BATCH, _TOKENS, _HEADS), dtype=np.float32)
    sizes = _BATCH, _TOKENS, _HEADS, _DIM
    out, qkv_gradient = _empty(gradient, bf16), _empty(qkv, bf16)
    weights = np.zeros((_BATCH, _HEADS, _TOKENS, 16), np.uint16 if bf16 else np.float32)
    sums = np.full((_BATCH, _TOKENS), np.nan, np.float32)
    # Held by names until the kernel has read them.
    given, flowing, given_tokens, given_weight = (
        _stored(values, bf16) for values in (qkv, gradient, tokens, weight)
    )
    failed = kernel.attention_forward(*_addresses(given, out, weights), *sizes, _SCALE)
    failed |= kernel.attention_backward(
        *_addresses(given, weights, flowing, qkv_gradient), *sizes, _SCALE
    )
    failed |= kernel.scalar_attention(
        *_addresses(given_tokens, given_weight, scalars, sums), *sizes, _DIM, _SCALE
    )
    if failed:
        return False
    query, key = np.einsum("bti,khdi->kbthd", tokens, weight)
    expected = (
        *_attention(qkv, gradient),
        np.einsum("bhqk,bkh->bq", _softmax(query, key), scalars),
    )
    given_back = _loaded(out, bf16), _loaded(qkv_gradient, bf16), sums
    return all(
        np.abs(ours - exact).max() <= _TOLERANCE[bf16] * np.abs(exact).max()
        for ours, exact in zip(given_back, expected, strict=True)
    )


def _attention(
    qkv: NDArray[np.float32], gradient: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The output of attention, and the gradient of query, key and value."""
    query, key, value = np.moveaxis(qkv, 2, 0)
    weights = _softmax(query, key)
    of_weights = np.einsum("bqhd,bkhd->bhqk", gradient, value)
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdims=True)) * _SCALE
    gradients = (
        np.einsum("bhqk,bkhd->bqhd", of_scores, key),
        np.einsum("bhqk,bqhd->bkhd", of_scores, query),
        np.einsum("bhqk,bqhd->bkhd", weights, gradient),
    )
    return np.einsum("bhqk,bkhd->bqhd", weights, value), np.stack(gradients, axis=2)


def _softmax(query: NDArray[Any], key: NDArray[Any]) -> NDArray[Any]:
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) * _SCALE
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    weights: NDArray[Any] = exponentials / exponentials.sum(-1, keepdims=True)
    return weights


def _addresses(*arrays: NDArray[Any]) -> list[int]:
    return [array.ctypes.data for array in arrays]


def _empty(like: NDArray[Any], bf16: bool) -> NDArray[Any]:
    """An array whose values are NaN until the kernel writes them."""
    return np.full(like.shape, 0x7FC0 if bf16 else np.nan, np.uint16 if bf16 else np.float32)


def _rounded(values: NDArray[np.float32], *, bf16: bool) -> NDArray[np.float32]:
    """The values as the kernel gets them."""
    return _loaded(_stored(values, bf16), bf16)


def _stored(values: NDArray[np.float32], bf16: bool) -> NDArray[Any]:
    """Single precision, or its upper half: bfloat16."""
    values = np.ascontiguousarray(values)
    return (values.view(np.uint32) >> 16).astype(np.uint16) if bf16 else values


def _loaded(stored: NDArray[Any], bf16: bool) -> NDArray[np.float32]:
    return (stored.astype(np.uint32) << 16).view(np.float32) if bf16 else stored
