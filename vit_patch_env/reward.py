"""The reward of AgentViT (paper, section 2.4, equation 2.3) as pure functions."""

from typing import NamedTuple

MAX_LOSS_RATIO = 1000.0
"""Bound on L(0) / L(t), so that a loss of zero still gives a finite reward."""

DIVERGED_REWARD = -100.0
"""Reward of a step whose loss is not finite: far below any step of a healthy run."""


class RewardTerms(NamedTuple):
    """The two terms that equation 2.3 weighs."""

    loss: float
    patch: float


def loss_term(initial_loss: float, loss: float) -> float:
    """L(0) / L(t): 1 at the first step, growing as the training loss falls."""
    return min(initial_loss / max(loss, 1e-30), MAX_LOSS_RATIO)


def patch_term(n_selected: int, n_desired: int | None, n_patches: int) -> float:
    """Relative distance to the desired number of patches, as a penalty; 0 is best.

    The paper states the ratio without a sign; only the negative distance makes an agent
    approach the desired number. Without a desired number, fewer patches are better:
    -n_selected / n_patches.
    """
    if n_desired is None:
        return -n_selected / n_patches
    return -abs(n_selected - n_desired) / n_desired


def weighted_reward(terms: RewardTerms, alpha: float) -> float:
    """Alpha * loss term + (1 - alpha) * patch term (equation 2.3)."""
    return alpha * terms.loss + (1 - alpha) * terms.patch
