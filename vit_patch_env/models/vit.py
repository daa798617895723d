"""The original ViT (Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929): a class token."""

from typing import Any

import torch
from torch import Tensor, nn

from vit_patch_env.models.simple_vit import SimpleViT


class ViT(SimpleViT):
    """SimpleViT with a class token, which is the head's input, and learned positions.

    The class token is initialised to zero, positions with a standard deviation of 0.02, as in the
    published code; the other weights as SimpleViT's.

    Args:
        vit_options: of `SimpleViT`.
    """

    n_prefix_tokens = 1

    def __init__(self, **vit_options: Any) -> None:
        super().__init__(**vit_options)
        dim = self.positions.shape[1]
        del self.positions  # the fixed ones
        self.positions = nn.Parameter(0.02 * torch.randn(self.n_patches, dim, dtype=torch.float32))
        self.class_position = nn.Parameter(0.02 * torch.randn(dim, dtype=torch.float32))
        self.class_token = nn.Parameter(torch.zeros(dim, dtype=torch.float32))

    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """The class token and the patches' with positions added: (batch, 1 + n_keep, dim)."""
        patches = super().embed(images, keep)
        first = (self.class_token + self.class_position).expand(patches.shape[0], 1, -1)
        return torch.cat((first, patches), dim=1)

    def class_attention(self, images: Tensor) -> Tensor:
        """The class token's attention to each patch in the first layer: (batch, n_patches).

        The mean over heads. The attention to the class token itself is what is missing to a sum
        of 1.
        """
        attention = self.blocks[0].attention
        query, key = attention.first_query_and_keys(self.embed(images))
        return class_attention(query, key, attention.scale).mean(dim=1)

    def pool(self, tokens: Tensor) -> Tensor:
        """The class token, normalised: (batch, dim)."""
        return self.norm(tokens[:, 0])  # type: ignore[no-any-return]


def class_attention(query: Tensor, key: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """The class token's attention to the other tokens: (batch, heads, n_tokens - 1).

    In float32 or wider for any type of query and key, as tokens are ranked by it.

    Args:
        query: (batch, heads, n_tokens, dim_head).
        key: (batch, heads, n_tokens, dim_head).
        scale: of the scores.
        bias: (batch, n_tokens), added to the scores of each key; None for none.
    """
    scores = torch.einsum("bhd,bhnd->bhn", query[:, :, 0] * scale, key)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if bias is not None:
        scores = scores + bias[:, None]
    return scores.softmax(dim=-1)[:, :, 1:]


MODEL = ViT
