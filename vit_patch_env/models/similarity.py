"""Similarity of tokens, by which some models choose what to keep and what to merge."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vit_patch_env.attention import full_precision


@torch.no_grad()
def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each token of a and each of b: (batch, n_a, n_b) float32 or wider, no gradient.

    In full precision whatever autocast says: in bfloat16 most of the best would be ties.

    Args:
        a: (batch, n_a, dim).
        b: (batch, n_b, dim).
    """
    dtype = torch.promote_types(a.dtype, torch.float32)
    with full_precision(a.device):
        return F.normalize(a.to(dtype), dim=2) @ F.normalize(b.to(dtype), dim=2).transpose(1, 2)
