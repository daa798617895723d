"""Adaptive Token Sampling (Fayyaz et al. 2022, https://arxiv.org/abs/2111.15667)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vit_patch_env.models.layers.attention import attend_heads, split_heads
from vit_patch_env.models.layers.block import Attention
from vit_patch_env.models.layers.tokens import chosen_first
from vit_patch_env.models.vit import ViT, class_attention
from vit_patch_env.patches.selection import select_tokens


class ATSViT(ViT):
    """A ViT whose blocks sample the tokens that matter to the class token, image by image.

    A block samples a fixed number of times from its tokens, with probabilities proportional to
    their significance, and keeps the distinct ones: fewer if significance is concentrated. The
    number of tokens adapts to the image; a batch is padded to the image with the most tokens.

    Sampling starts after the first quarter of the blocks, as published (block 4 of 12). Where the
    paper and its code differ, this follows the paper: tokens are sampled in image order, at fixed
    points of the inverse cumulative distribution. No gradient flows through the sampling.

    Args:
        keep_rate: samples per block as a share of the ViT's input patches, and so an upper bound
            on the tokens kept; published: 108 of 197.
        vit_options: of `SimpleViT`.
    """

    published_keep_rate = 0.55
    reduces_tokens = True
    data_dependent = True

    def __init__(self, *, keep_rate: float = published_keep_rate, **vit_options: Any) -> None:
        super().__init__(**vit_options)
        self.keep_rate = keep_rate

    def transform(self, tokens: Tensor) -> Tensor:
        """Tokens after all blocks, the class token first; shorter rows end in padding."""
        n_samples = max(1, round(self.keep_rate * (tokens.shape[1] - 1)))
        first = len(self.blocks) // 4
        for block in self.blocks[:first]:
            tokens = block(tokens)
        bias = tokens.new_zeros(tokens.shape[:2])
        for block in self.blocks[first:]:
            tokens, bias = sampled_attention(block.attention, tokens, bias, n_samples)
            tokens = tokens + block.mlp(tokens)
        return tokens


def sampled_attention(
    attention: Attention, tokens: Tensor, bias: Tensor, n_samples: int
) -> tuple[Tensor, Tensor]:
    """The tokens that an attention layer samples, with its output added, and their bias.

    Only the sampled tokens are used as queries; all tokens are keys.

    Args:
        attention: the layer.
        tokens: (batch, n_tokens, dim), the class token first.
        bias: (batch, n_tokens), 0 for a token and -inf for padding.
        n_samples: number of samples.

    Returns:
        Tokens (batch, n_sampled, dim), the class token first, and their bias (batch, n_sampled).
    """
    query, key, value = split_heads(attention.project(tokens), 3, attention.heads)
    with torch.no_grad():
        weights = class_attention(query, key, attention.scale, bias)
        significance = (weights * value[:, :, 1:].norm(dim=-1)).sum(dim=1)  # (batch, n_tokens - 1)
        sampled = sample_tokens(significance, n_samples, mask=bias[:, 1:] == 0)
        index, mask = pack(F.pad(sampled, (1, 0), value=True))  # the class token stays
    rows = index[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
    query = query.gather(2, rows)
    out = attention.to_out(attend_heads(query, key, value, attention.scale, bias))
    tokens = select_tokens(tokens, index) + out
    return tokens, torch.zeros_like(bias[:, :1]).masked_fill(~mask, -torch.inf)


def sample_tokens(scores: Tensor, n_samples: int, mask: Tensor) -> Tensor:
    """Whether each token is sampled: bool (batch, n_tokens), by inverse transform sampling.

    A token is sampled if a fixed point (2 k - 1) / (2 n_samples), k = 1 ... n_samples, falls into
    its interval of the cumulative distribution; several points in one interval give one token.

    Args:
        scores: (batch, n_tokens), not negative; probabilities once they are normalised.
        n_samples: fixed points.
        mask: bool (batch, n_tokens), False for padding, which is never sampled.
    """
    cumulative = scores.masked_fill(~mask, 0).cumsum(dim=1)
    total = cumulative[:, -1:].clamp(min=torch.finfo(scores.dtype).tiny)
    n_points = (n_samples * cumulative / total + 0.5).floor()  # fixed points up to each token
    return n_points.diff(dim=1, prepend=torch.zeros_like(total)) > 0


def pack(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the chosen tokens, in order, and a mask that is False for padding.

    Args:
        chosen: bool (batch, n_tokens).

    Returns:
        int64 and bool (batch, most chosen of one image).
    """
    index = chosen_first(chosen)[:, : int(chosen.sum(dim=1).max())]
    return index, chosen.gather(1, index)


MODEL = ATSViT
