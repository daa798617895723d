"""Multi-head attention of projected tokens, by the kernel that is fastest on their device."""

from contextlib import AbstractContextManager, nullcontext

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vit_patch_env.models.kernels.cpu_attention import fits, fused_attention, fused_scalar_attention

_FEW_TOKENS = 32
"""Up to here the fused kernel in fp32 beats plain attention in bf16: with 4 heads of 16 and batches
of 128 it takes 0.38 of the time at 4 to 16 tokens, 0.7 at 32, 1.0 at 64 (AMD EPYC, 1 thread)."""


def attend(qkv: Tensor, heads: int, scale: float, bias: Tensor | None = None) -> Tensor:
    """softmax(scale * query key^T + bias) value: (batch, n_tokens, heads * dim_head).

    Args:
        qkv: (batch, n_tokens, 3 * heads * dim_head): query, key and value one after the other, each
            by heads.
        heads: attention heads.
        scale: factor of the scores.
        bias: (batch, n_tokens), added to the scores of each key; None for none.
    """
    if bias is None:
        dim_head = qkv.shape[2] // (3 * heads)
        # Heads too small for the kernel in bf16 fit the one in fp32.
        fits_fp32 = qkv.dtype == torch.bfloat16 and fits(qkv, torch.float32, dim_head)
        if fits_fp32 and dim_head % 32 and qkv.shape[1] <= _FEW_TOKENS:
            return fused_attention(qkv.float(), heads, scale).to(qkv.dtype)
        if fits(qkv, qkv.dtype, dim_head):
            return fused_attention(qkv, heads, scale)
    query, key, value = split_heads(qkv, 3, heads).unbind()
    return attend_heads(query, key, value, scale, bias)


def attend_heads(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """`attend` for split heads; queries may be fewer than keys: (batch, queries, heads * d).

    Args:
        query: (batch, heads, queries, d).
        key: (batch, heads, keys, d).
        value: (batch, heads, keys, d).
        scale: factor of the scores.
        bias: (batch, keys), added to the scores of each key; None for none.
    """
    if query.is_cuda:
        mask = None if bias is None else bias[:, None, None].to(query.dtype)  # (b, 1, 1, keys)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    else:  # torch's fused kernel is slower on a CPU at these lengths, mainly in backward passes
        out = attention_weights(query, key, scale, bias) @ value
    return rearrange(out, "b h n d -> b n (h d)")


def attend_scalars(tokens: Tensor, weight: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attention where a token's value is one number per head: (batch, n_tokens) float32.

    On a CPU it has no gradient.

    Args:
        tokens: (batch, n_tokens, dim), projected to query and key.
        weight: (2 * heads * dim_head, dim) of that projection.
        values: (batch, n_tokens, heads) float32; the attended ones are summed over heads.
        scale: factor of the scores.
    """
    heads, dtype = values.shape[2], _product_dtype(tokens)
    if fits(tokens, dtype, len(weight) // (2 * heads), tokens.shape[2]):
        return fused_scalar_attention(tokens.to(dtype), weight.to(dtype), values, scale)
    query, key = split_heads(F.linear(tokens, weight), 2, heads).unbind()
    weights = attention_weights(query, key, scale)
    return (weights * values.transpose(1, 2)[:, :, None]).sum(dim=(1, 3))


def attention_weights(
    query: Tensor, key: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """softmax(scale * query key^T + bias) for split heads: (batch, heads, queries, keys)."""
    scores = (query * scale) @ key.transpose(-1, -2)
    if bias is not None:  # (batch, keys)
        scores = scores + bias[:, None, None].to(scores.dtype)
    return scores.softmax(dim=-1)


def split_heads(projected: Tensor, parts: int, heads: int) -> Tensor:
    """Query, key and value (or the first `parts`): (parts, batch, heads, n_tokens, dim_head)."""
    return rearrange(projected, "b n (parts h d) -> parts b h n d", parts=parts, h=heads)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context without autocast on that device; the meta device never has any."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _product_dtype(tensor: Tensor) -> torch.dtype:
    """The type of matrix products with that tensor: autocast's, or else the tensor's own."""
    device_type = tensor.device.type
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return tensor.dtype
