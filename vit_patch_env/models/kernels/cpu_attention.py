"""Fused attention for short sequences on CPUs, in fp32 and bf16, as torch operators.

`attention`, `attention_backward` and `scalar_attention` are operators of
`torch.ops.vit_patch_env`: `torch.compile`, fake tensors and `FlopCounterMode` see through them.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import custom_op
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils.flop_counter import register_flop_formula

from vit_patch_env.models.kernels.build import available, library

__all__ = [
    "MAX_DIM_HEAD", "MAX_TOKENS", "attention", "attention_backward", "fits", "fused_attention",
    "fused_scalar_attention", "scalar_attention",
]  # fmt: skip

MAX_TOKENS = 256
MAX_DIM_HEAD = 128


def fits(tokens: Tensor, dtype: torch.dtype, *sizes: int) -> bool:
    """Whether the kernel can compute the attention of those tokens.

    Never while a model is exported or traced: a program that leaves this process consists of
    torch's own operators. `torch.compile` uses the kernel.

    Args:
        tokens: (batch, n_tokens, any size).
        dtype: type of matrix products.
        sizes: size of a head, then any other size that is multiplied over.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return (
        tokens.device.type == "cpu"
        and tokens.shape[1] <= MAX_TOKENS
        and sizes[0] <= MAX_DIM_HEAD
        and math.gcd(*sizes) * dtype.itemsize % 64 == 0
        and available(dtype)
    )


def fused_attention(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(scale * query key^T) value: (batch, n_tokens, heads * dim_head), of qkv's type.

    It can be differentiated once.

    Args:
        qkv: (batch, n_tokens, 3 * heads * dim_head), query, key and value one after the other,
            each by heads; `fits` must accept it.
        heads: attention heads.
        scale: factor of the scores, above 0.
    """
    if _is_plain(qkv):
        return _DirectAttention.apply(qkv, heads, scale)  # type: ignore[no-any-return]
    out: Tensor = attention(qkv, heads, scale)[0]
    return out


def fused_scalar_attention(tokens: Tensor, weight: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attention where a token's value is one number per head: (batch, n_tokens), no gradient.

    Args:
        tokens: (batch, n_tokens, dim), projected to query and key.
        weight: (2 * heads * dim_head, dim) of that projection, of the tokens' type.
        values: (batch, n_tokens, heads) float32; the attended ones are summed over heads.
        scale: factor of the scores, above 0.
    """
    if _is_plain(tokens):
        return _scalar_attention(tokens, weight, values, scale)
    inputs = (tensor.detach() for tensor in (tokens, weight, values))
    return scalar_attention(*inputs, scale)  # type: ignore[no-any-return]


def _is_plain(tensor: Tensor) -> bool:
    """Whether no tracer, counter or other mode watches operators; torch has no public test for it.

    Then the kernel is called directly. Dispatching an operator to Python and back takes longer than
    the attention of a small model: its training step would take 6 % longer.
    """
    return (
        type(tensor) is Tensor
        and not torch.compiler.is_compiling()
        and not is_in_torch_dispatch_mode()
    )


def _new_outputs(qkv: Tensor, heads: int, scale: float) -> tuple[Tensor, Tensor]:
    """Uninitialised output and weights (batch, heads, n_tokens, n_tokens rounded up to 16)."""
    batch, n_tokens, width = qkv.shape
    padded = -(-n_tokens // 16) * 16
    out = qkv.new_empty(batch, n_tokens, width // 3)
    return out, qkv.new_empty(batch, heads, n_tokens, padded)


def _attention(qkv: Tensor, heads: int, scale: float) -> tuple[Tensor, Tensor]:
    qkv = qkv.contiguous()
    out, weights = _new_outputs(qkv, heads, scale)
    batch, n_tokens, width = qkv.shape
    _check(
        _kernel(qkv).attention_forward(
            qkv.data_ptr(), out.data_ptr(), weights.data_ptr(),
            batch, n_tokens, heads, width // (3 * heads), scale,
        )
    )  # fmt: skip
    return out, weights


def _new_gradient(gradient: Tensor, qkv: Tensor, weights: Tensor, scale: float) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _attention_backward(gradient: Tensor, qkv: Tensor, weights: Tensor, scale: float) -> Tensor:
    gradient, qkv, weights = gradient.contiguous(), qkv.contiguous(), weights.contiguous()
    qkv_gradient = _new_gradient(gradient, qkv, weights, scale)
    batch, n_tokens, width = qkv.shape
    heads = weights.shape[1]
    _check(
        _kernel(qkv).attention_backward(
            qkv.data_ptr(), weights.data_ptr(), gradient.data_ptr(), qkv_gradient.data_ptr(),
            batch, n_tokens, heads, width // (3 * heads), scale,
        )
    )  # fmt: skip
    return qkv_gradient


def _new_scalars(tokens: Tensor, weight: Tensor, values: Tensor, scale: float) -> Tensor:
    return values.new_empty(values.shape[:2])


def _scalar_attention(tokens: Tensor, weight: Tensor, values: Tensor, scale: float) -> Tensor:
    tokens, weight, values = tokens.contiguous(), weight.contiguous(), values.contiguous()
    out = _new_scalars(tokens, weight, values, scale)
    batch, n_tokens, heads = values.shape
    _check(
        _kernel(tokens).scalar_attention(
            tokens.data_ptr(), weight.data_ptr(), values.data_ptr(), out.data_ptr(),
            batch, n_tokens, heads, len(weight) // (2 * heads), tokens.shape[2], scale,
        )
    )  # fmt: skip
    return out


def _kernel(tensor: Tensor) -> Any:
    return library(tensor.dtype)


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for the attention kernel")


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, _, ctx.scale = inputs
    ctx.save_for_backward(qkv, output[1])
    ctx.set_materialize_grads(False)  # the weights have none


def _backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor, None, None]:
    return attention_backward(gradient, *ctx.saved_tensors, ctx.scale), None, None


attention = custom_op("vit_patch_env::attention", _attention, mutates_args=(), device_types="cpu")
attention.register_fake(_new_outputs)
attention.register_autograd(_backward, setup_context=_save)

attention_backward = custom_op(
    "vit_patch_env::attention_backward", _attention_backward, mutates_args=(), device_types="cpu"
)
attention_backward.register_fake(_new_gradient)

scalar_attention = custom_op(
    "vit_patch_env::scalar_attention", _scalar_attention, mutates_args=(), device_types="cpu"
)
scalar_attention.register_fake(_new_scalars)


class _DirectAttention(torch.autograd.Function):
    """`attention` of plain tensors, without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, scale: float) -> Tensor:
        qkv = qkv.contiguous()  # once for both passes
        out, weights = _attention(qkv, heads, scale)
        ctx.save_for_backward(qkv, weights)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        qkv, weights = ctx.saved_tensors
        backward = _attention_backward if _is_plain(gradient) else attention_backward
        return backward(gradient, qkv, weights, ctx.scale), None, None


@register_flop_formula(torch.ops.vit_patch_env.attention)
def attention_flops(qkv: tuple[int, ...], *_: Any, **__: Any) -> int:
    """The two products of attention; a multiplication and an addition are two FLOPs."""
    batch, n_tokens, width = qkv
    return 2 * 2 * batch * n_tokens**2 * (width // 3)


@register_flop_formula(torch.ops.vit_patch_env.attention_backward)
def attention_backward_flops(_: tuple[int, ...], qkv: tuple[int, ...], *__: Any, **___: Any) -> int:
    """Two products for each one of the forward pass."""
    return 2 * attention_flops(qkv)


@register_flop_formula(torch.ops.vit_patch_env.scalar_attention)
def scalar_attention_flops(
    tokens: tuple[int, ...], weight: tuple[int, ...], *_: Any, **__: Any
) -> int:
    """The projection to query and key, and the product of these."""
    batch, n_tokens, dim = tokens
    width = weight[0]  # of query and key together
    return 2 * batch * n_tokens * dim * width + 2 * batch * n_tokens**2 * (width // 2)
