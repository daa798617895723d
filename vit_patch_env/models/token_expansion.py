"""Token Expansion, ToE (Huang et al. 2024, https://arxiv.org/abs/2404.00672)."""

from typing import Any

import torch
from torch import Tensor

from vit_patch_env.models.layers.tokens import chosen_first, cosine_similarity
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.patches.selection import select_tokens


class TokenExpansionViT(SimpleViT):
    """SimpleViT that trains on a growing share of the tokens and ends with all of them.

    In training, after the first block, it starts from tokens spread evenly over the image, adds the
    least similar ones, and averages each remaining token into the most similar of them. No gradient
    flows through the selection. Evaluation uses all tokens.

    If the number of initial tokens does not divide the number of tokens, they are still spread over
    the entire image, while the published code omits its end.

    Args:
        keep_rate: share of the tokens in the first third of a run, half-way to 1 in the second and
            1 in the last; published: 0.5, so 0.5, 0.75 and 1. The evenly spread tokens are half of
            the first.
        vit_options: of `SimpleViT`.
    """

    published_keep_rate = 0.5

    def __init__(self, *, keep_rate: float = published_keep_rate, **vit_options: Any) -> None:
        super().__init__(**vit_options)
        self.keep_rate = keep_rate

    @property
    def stages(self) -> tuple[float, float, float]:
        """Share of the tokens in each third of a run."""
        return self.keep_rate, (1 + self.keep_rate) / 2, 1.0

    def train_rate(self, progress: float) -> float:
        """Share of the tokens to train on; `progress`, in [0, 1), is the share of the run done."""
        return self.stages[min(int(3 * progress), 2)]

    def forward(self, images: Tensor, keep: Tensor | None = None, rate: float = 1.0) -> Tensor:
        """Logits (batch, n_classes), as `SimpleViT.forward`.

        Args:
            images: normalised images.
            keep: as for `SimpleViT`.
            rate: share of those to train on, in (0, 1]; without effect in evaluation.
        """
        tokens = self.transform(self.embed(images, keep), rate)
        return self.head(self.pool(tokens))  # type: ignore[no-any-return]

    def transform(self, tokens: Tensor, rate: float = 1.0) -> Tensor:
        """Tokens after all blocks: (batch, n_tokens, dim), in training a share of them."""
        first, *others = self.blocks
        tokens = first(tokens)
        if self.training and rate < 1:
            tokens = self._reduce(tokens, rate)
        for block in others:
            tokens = block(tokens)
        return tokens

    def _reduce(self, tokens: Tensor, rate: float) -> Tensor:
        """The tokens that the stages up to that rate select, the rest merged into them."""
        n_tokens = tokens.shape[1]
        rates = (self.keep_rate / 2, *(stage for stage in self.stages if stage < rate), rate)
        # Rounded before it is rounded down, as 0.29 * 100 is slightly less than 29.
        n_first, *counts = (max(1, int(round(share * n_tokens, 6))) for share in rates)
        similarity = cosine_similarity(tokens, tokens)
        chosen = torch.zeros_like(similarity[:, 0], dtype=torch.bool)  # (batch, n_tokens)
        chosen[:, torch.arange(n_first, device=tokens.device) * n_tokens // n_first] = True
        n_chosen = n_first
        for count in counts:
            n_new = max(0, count - n_chosen)
            for n_added in (n_new // 2, n_new - n_new // 2):
                chosen = expand(chosen, similarity, n_added)
            n_chosen += n_new
        return merge_rest(tokens, similarity, chosen, n_chosen)


def expand(chosen: Tensor, similarity: Tensor, n_added: int) -> Tensor:
    """The chosen tokens and those least similar to them: bool (batch, n_tokens).

    A token's similarity to the chosen ones is its similarity to the most similar of them.

    Args:
        chosen: bool (batch, n_tokens), the same number for every image and at least one.
        similarity: (batch, n_tokens, n_tokens), of all pairs.
        n_added: tokens to add.
    """
    nearest = similarity.masked_fill(~chosen[:, None], -torch.inf).amax(dim=2)
    added = nearest.masked_fill(chosen, torch.inf).topk(n_added, dim=1, largest=False).indices
    return chosen.scatter(1, added, True)


def merge_rest(tokens: Tensor, similarity: Tensor, chosen: Tensor, n_chosen: int) -> Tensor:
    """The chosen tokens, each averaged with the remaining tokens that are most similar to it.

    Args:
        tokens: (batch, n_tokens, dim).
        similarity: (batch, n_tokens, n_tokens), of all pairs.
        chosen: bool (batch, n_tokens).
        n_chosen: number of them in every image.

    Returns:
        Tokens (batch, n_chosen, dim), in their original order.
    """
    order = chosen_first(chosen)
    kept, rest = order[:, :n_chosen], order[:, n_chosen:]
    partner = (
        select_tokens(similarity, rest).masked_fill(~chosen[:, None], -torch.inf).argmax(dim=2)
    )
    target = (chosen.cumsum(dim=1) - 1).gather(1, partner)  # (batch, n_rest), among the kept
    others = select_tokens(tokens, rest)
    return select_tokens(tokens, kept).scatter_reduce(
        1, target[..., None].expand_as(others), others, "mean"
    )


MODEL = TokenExpansionViT
