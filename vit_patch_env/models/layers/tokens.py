"""Pure functions of tokens that several models share."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vit_patch_env.models.layers.attention import full_precision


def chosen_first(chosen: Tensor) -> Tensor:
    """Indices of the chosen tokens, then of the others, both ascending: int64 (batch, n_tokens).

    Args:
        chosen: bool (batch, n_tokens).
    """
    return chosen.byte().argsort(dim=1, descending=True, stable=True)


@torch.no_grad()
def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each token of a and each of b: (batch, n_a, n_b) float32 or wider, no gradient.

    In full precision even under autocast: in bfloat16 most of the highest values would be ties.

    Args:
        a: (batch, n_a, size).
        b: (batch, n_b, size).
    """
    dtype = torch.promote_types(a.dtype, torch.float32)
    with full_precision(a.device):
        return F.normalize(a.to(dtype), dim=2) @ F.normalize(b.to(dtype), dim=2).transpose(1, 2)
