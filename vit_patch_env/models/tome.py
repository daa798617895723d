"""Token Merging, ToMe (Bolya et al. 2023, https://arxiv.org/abs/2210.09461)."""

from typing import Any

import torch
from torch import Tensor

from vit_patch_env.models.layers.attention import split_heads
from vit_patch_env.models.layers.tokens import cosine_similarity
from vit_patch_env.models.simple_vit import SimpleViT


class ToMe(SimpleViT):
    """SimpleViT that merges a number of pairs of similar tokens in every block.

    Between attention and MLP the tokens whose keys are most alike are averaged. A token counts as
    often as it has patches: in later averages, as a key in attention (proportional attention) and
    in the mean that the head reads. No gradient passes through the choice of pairs.

    Args:
        keep_rate: about the share of the tokens that are left behind the last block; a block
            merges the same number of pairs as the others, but never more than half of its tokens.
            Published: 13 of 197 tokens in each of 12 blocks, which leaves 0.21.
        vit_options: of `SimpleViT`.
    """

    published_keep_rate = 0.21

    def __init__(self, *, keep_rate: float = published_keep_rate, **vit_options: Any) -> None:
        super().__init__(**vit_options)
        self.keep_rate = keep_rate

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits (batch, n_classes), as `SimpleViT.forward`."""
        tokens = self.embed(images, keep)
        n_pairs = round((1 - self.keep_rate) * tokens.shape[1] / len(self.blocks))
        sizes = tokens.new_ones(tokens.shape[:2])  # (batch, n_tokens) in patches
        bias = None  # of sizes that are all 1
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
    """Where each token goes when the most similar pairs merge: int64 (batch, n_tokens).

    Bipartite soft matching: of tokens 0, 2, 4, ... the `n_merge` that are most similar to one of
    tokens 1, 3, 5, ... go to where that one goes. Places are 0 to n_tokens - n_merge - 1.

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
    """Means of the tokens that go to the same place, weighted by size, and the places' sizes.

    Args:
        tokens: (batch, n_tokens, dim).
        sizes: (batch, n_tokens), in patches.
        target: int64 (batch, n_tokens), the place of each token.
        n_merge: tokens that merge, so many fewer are the places.

    Returns:
        Tokens (batch, n_places, dim) and sizes (batch, n_places).
    """
    batch, n_tokens, dim = tokens.shape
    n_places = n_tokens - n_merge
    merged_sizes = sizes.new_zeros(batch, n_places).scatter_add(1, target, sizes)
    weighted = (sizes / merged_sizes.gather(1, target))[..., None] * tokens
    places = target[..., None].expand_as(weighted)
    return weighted.new_zeros(batch, n_places, dim).scatter_add(1, places, weighted), merged_sizes


MODEL = ToMe
