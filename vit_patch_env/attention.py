"""Multi-head attention of projected tokens, by the kernel that is fastest where they live."""

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vit_patch_env.cpu_attention import fits, fused_attention


def attend(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(scale * query key^T) value: (batch, n_tokens, heads * dim_head).

    Args:
        qkv: (batch, n_tokens, 3 * heads * dim_head): query, key and value after each other, each
            by heads.
        heads: attention heads.
        scale: of the scores.
    """
    if fits(qkv, heads):
        return fused_attention(qkv, heads, scale)
    query, key, value = split_heads(qkv, heads)
    if qkv.is_cuda:
        out = F.scaled_dot_product_attention(query, key, value, scale=scale)
    else:  # torch's fused kernel is slower on a CPU at these lengths, above all backwards
        out = attention_weights(qkv, heads, scale) @ value
    return rearrange(out, "b h n d -> b n (h d)")


def attention_weights(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """Attention (batch, heads, queries, keys), each query's row summing to 1."""
    query, key, _ = split_heads(qkv, heads)
    return ((query * scale) @ key.transpose(-1, -2)).softmax(dim=-1)


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, each (batch, heads, n_tokens, dim_head)."""
    query, key, value = rearrange(qkv, "b n (qkv h d) -> qkv b h n d", qkv=3, h=heads)
    return query, key, value
