"""A transformer layer: attention and an MLP."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit_patch_env.models.layers.attention import (
    attend,
    attend_scalars,
    attention_weights,
    full_precision,
    split_heads,
)


class Attention(nn.Module):
    """Multi-head self-attention with its LayerNorm: (batch, n_tokens, dim) -> the same shape."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.dim_head = dim_head
        self.scale = dim_head**-0.5
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """The layer's output, without the residual connection: (batch, n_tokens, dim)."""
        return self.combine(self.project(tokens))

    def project(self, tokens: Tensor) -> Tensor:
        """Query, key and value of the tokens: (batch, n_tokens, 3 * heads * dim_head)."""
        return self.to_qkv(self.norm(tokens))  # type: ignore[no-any-return]

    def combine(self, qkv: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer's output from the result of `project`: (batch, n_tokens, dim).

        Args:
            qkv: of `project`.
            bias: (batch, n_tokens), added to the scores of each key; None for none.
        """
        out = attend(qkv, self.heads, self.scale, bias)
        return self.to_out(out)  # type: ignore[no-any-return]

    def weights(self, tokens: Tensor) -> Tensor:
        """Attention (batch, heads, queries, keys), each query's row summing to 1."""
        query_key = F.linear(self.norm(tokens), self._query_key)
        query, key = split_heads(query_key, 2, self.heads)
        return attention_weights(query, key, self.scale)

    def first_query_and_keys(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The first token's query and all keys: (batch, heads, 1 and n_tokens, dim_head)."""
        normed = self.norm(tokens)
        of_query, of_key = self._query_key.chunk(2)
        query = split_heads(F.linear(normed[:, :1], of_query), 1, self.heads)[0]
        key = split_heads(F.linear(normed, of_key), 1, self.heads)[0]
        return query, key

    def mean_output(self, tokens: Tensor) -> Tensor:
        """`forward(tokens)` averaged over batch and dim: (n_tokens,) float32.

        Everything after the softmax is linear, so the mean over dim is taken of the weights: a
        token's value is then one number per head, and neither values nor output are projected.
        """
        normed = self.norm(tokens)
        value = self.to_qkv.weight.view(3, self.heads, self.dim_head, -1)[2]
        out = self.to_out.weight.mean(dim=0).view(self.heads, self.dim_head)
        with full_precision(tokens.device):
            # Under autocast they may have a narrower type than the weights.
            values = F.linear(normed.to(out.dtype), torch.einsum("hd,hdk->hk", out, value))
        return attend_scalars(normed, self._query_key, values, self.scale).mean(dim=0)

    @property
    def _query_key(self) -> Tensor:
        """The projection to query and key (2 * heads * dim_head, dim)."""
        return self.to_qkv.weight[: 2 * self.heads * self.dim_head]


class Block(nn.Module):
    """One transformer layer: attention and a GELU MLP, each added to its input."""

    def __init__(self, dim: int, heads: int, dim_head: int, mlp_dim: int) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dim_head)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """The layer's output: (batch, n_tokens, dim)."""
        tokens = tokens + self.attention(tokens)
        return tokens + self.mlp(tokens)  # type: ignore[no-any-return]
