"""Token Merging, ToMe (Bolya et al. 2023, https://arxiv.org/abs/2210.09461)."""

from typing import Any

import torch
from torch import Tensor

from vit_patch_env.models.layers.attention import split_heads
from vit_patch_env.models.layers.tokens import cosine_similarity
from vit_patch_env.models.simple_vit import SimpleViT


class ToMe(SimpleViT):
    """SimpleViT that merges a number of pairs of similar tokens in every block.

    Between attention and MLP the tokens with the most similar keys are averaged. A token is
    weighted by its number of patches: in later averages, as a key in attention (proportional
    attention) and in the mean pooling. No gradient flows through the choice of pairs.

    Args:
        keep_rate: approximate share of the tokens left after the last block; all blocks merge the
            same number of pairs, but never more than half of their tokens.
            Published: 13 of 197 tokens in each of 12 blocks, which leaves 0.21.
        vit_options: of `SimpleViT`.
    """

    published_keep_rate = 0.21
    reduces_tokens = True

    def __init__(self, *, keep_rate: float = published_keep_rate, **vit_options: Any) -> None:
        super().__init__(**vit_options)
        self.keep_rate = keep_rate

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits (batch, n_classes), as `SimpleViT.forward`."""
        tokens = self.embed(images, keep)
        n_pairs = round((1 - self.keep_rate) * tokens.shape[1] / len(self.blocks))
        sizes = tokens.new_ones(tokens.shape[:2])  # (batch, n_tokens) in patches
        bias = None  # while all sizes are 1
        for block in self.blocks:
            qkv = block.attention.project(tokens)
            tokens = tokens + block.attention.combine(qkv, bias)
            if n_merge := min(n_pairs, tokens.shape[1] // 2):
                keys = split_heads(qkv.detach(), 3, block.attention.heads)[1].mean(dim=1)
                tokens, sizes = merge(tokens, sizes, bipartite_matching(keys, n_merge), n_merge)
                bias = sizes.log()
            tokens = tokens + block.mlp(tokens)
        shares = sizes / sizes.sum(dim=1, keepdim=True)
        return self.head((shares[..., None] * self.norm(tokens)).sum(dim=1))  # type: ignore[no-any-return]


def bipartite_matching(metric: Tensor, n_merge: int) -> Tensor:
    """Index of each token after the most similar pairs are merged: int64 (batch, n_tokens).

    Bipartite soft matching: of tokens 0, 2, 4, ... the `n_merge` that are most similar to one of
    tokens 1, 3, 5, ... are merged into it. Indices are 0 to n_tokens - n_merge - 1.

    Args:
        metric: (batch, n_tokens, size), compared by their cosine.
        n_merge: tokens that merge, from 1 to half of all.
    """
    best, partner = cosine_similarity(metric[:, ::2], metric[:, 1::2]).max(dim=2)
    rank = best.argsort(dim=1, descending=True).argsort(dim=1)  # 0 for the most similar
    n_unmerged = best.shape[1] - n_merge
    target = metric.new_empty(metric.shape[:2], dtype=torch.int64)
    target[:, ::2] = torch.where(rank < n_merge, n_unmerged + partner, rank - n_merge)
    target[:, 1::2] = n_unmerged + torch.arange(metric.shape[1] // 2, device=metric.device)
    return target


def merge(tokens: Tensor, sizes: Tensor, target: Tensor, n_merge: int) -> tuple[Tensor, Tensor]:
    """Means of the tokens with the same target, weighted by size, and the merged sizes.

    Args:
        tokens: (batch, n_tokens, dim).
        sizes: (batch, n_tokens), in patches.
        target: int64 (batch, n_tokens), the index of each token after merging.
        n_merge: number of tokens that are merged into others.

    Returns:
        Tokens (batch, n_merged, dim) and sizes (batch, n_merged).
    """
    batch, n_tokens, dim = tokens.shape
    n_merged = n_tokens - n_merge
    merged_sizes = sizes.new_zeros(batch, n_merged).scatter_add(1, target, sizes)
    weighted = (sizes / merged_sizes.gather(1, target))[..., None] * tokens
    index = target[..., None].expand_as(weighted)
    return weighted.new_zeros(batch, n_merged, dim).scatter_add(1, index, weighted), merged_sizes


MODEL = ToMe
