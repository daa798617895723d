"""EViT (Liang et al. 2022, https://arxiv.org/abs/2202.07800): inattentive tokens are fused."""

import math
from typing import Any

import torch
from torch import Tensor

from vit_patch_env.models.layers.attention import split_heads
from vit_patch_env.models.layers.block import Attention
from vit_patch_env.models.vit import ViT, class_attention
from vit_patch_env.patches.selection import select_tokens


class EViT(ViT):
    """A ViT that keeps the tokens its class token attends to most and fuses the rest into one.

    The blocks at a quarter, half and three quarters of the depth do so, as published (4, 7 and 10
    of 12). Later blocks treat a fused token like any other. The rate is constant over training; the
    published code can also decrease it to this value over the first epochs.

    Args:
        keep_rate: share of the tokens kept by each of those blocks; published: 0.7.
        vit_options: of `SimpleViT`.
    """

    published_keep_rate = 0.7
    reduces_tokens = True

    def __init__(self, *, keep_rate: float = published_keep_rate, **vit_options: Any) -> None:
        super().__init__(**vit_options)
        self.keep_rate = keep_rate

    def transform(self, tokens: Tensor) -> Tensor:
        """Tokens after all blocks, the class token first: (batch, n_tokens, dim)."""
        depth = len(self.blocks)
        for index, block in enumerate(self.blocks):
            if index not in {depth // 4, depth // 2, 3 * depth // 4}:
                tokens = block(tokens)
                continue
            qkv = block.attention.project(tokens)
            tokens = tokens + block.attention.combine(qkv)
            # Rounded first, as 0.55 * 100 is slightly more than 55.
            n_keep = math.ceil(round(self.keep_rate * (tokens.shape[1] - 1), 6))
            tokens = fuse(tokens, attentiveness(block.attention, qkv), n_keep)
            tokens = tokens + block.mlp(tokens)
        return tokens


def attentiveness(attention: Attention, qkv: Tensor) -> Tensor:
    """The class token's attention to the others, mean over heads: (batch, n_tokens - 1).

    Args:
        attention: the layer.
        qkv: of its `project`.
    """
    query, key = split_heads(qkv, 3, attention.heads)[:2]
    return class_attention(query, key, attention.scale).mean(dim=1)


def fuse(tokens: Tensor, weights: Tensor, n_keep: int) -> Tensor:
    """The class token, the most attended tokens and the sum of the others: (batch, n, dim).

    Args:
        tokens: (batch, n_tokens, dim), the class token first.
        weights: (batch, n_tokens - 1), attentiveness; in the sum they are not normalised, as in the
            published code.
        n_keep: tokens kept besides the class token; if these are all, nothing is fused.
    """
    if n_keep == weights.shape[1]:
        return tokens
    order = weights.argsort(dim=1, descending=True)
    others = select_tokens(tokens[:, 1:], order)
    rest = weights.gather(1, order[:, n_keep:])[..., None]
    fused = (rest * others[:, n_keep:]).sum(dim=1, keepdim=True)
    return torch.cat((tokens[:, :1], others[:, :n_keep], fused), dim=1)


MODEL = EViT
