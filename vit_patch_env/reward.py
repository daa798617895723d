"""Rewards by name: pure functions of the outcome of a training step."""

from collections.abc import Callable
from typing import NamedTuple

from vit_patch_env.names import RewardName

MAX_LOSS_RATIO = 1000.0
"""Bound on L(0) / L(t), so that a loss of zero still gives a finite reward."""

MAX_PROGRESS = 10.0
"""Bound on the reward `progress`, either way."""

WINDOW = 50
"""Steps that running means are taken over."""


class StepOutcome(NamedTuple):
    """The outcome of a training step, which a reward is a function of.

    Attributes:
        loss: training loss of the step, on the selected patches.
        initial_loss: of the episode's first step.
        mean_loss: running mean of the previous steps; at the first step, its own.
        n_selected: patches trained on.
        n_desired: desired number of patches, or None for as few as possible.
        n_patches: of an image.
        alpha: weight of the loss against the number of patches, in [0, 1].
        flops_share: the step's FLOPs over those of one on all patches.
        val_loss_decrease: decrease of the validation loss since its last measurement; 0 if it
            was not measured.
    """

    loss: float
    initial_loss: float
    mean_loss: float
    n_selected: int
    n_desired: int | None
    n_patches: int
    alpha: float
    flops_share: float = 1.0
    val_loss_decrease: float = 0.0


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


def reward_terms(outcome: StepOutcome) -> RewardTerms:
    """The two terms of equation 2.3."""
    return RewardTerms(
        loss=loss_term(outcome.initial_loss, outcome.loss),
        patch=patch_term(outcome.n_selected, outcome.n_desired, outcome.n_patches),
    )


def paper_reward(outcome: StepOutcome) -> float:
    """AgentViT's (paper, section 2.4, equation 2.3), in [-n_patches, 1000].

    It grows as the training loss falls, for any reason, and is highest at the desired number.
    """
    return weighted_reward(reward_terms(outcome), outcome.alpha)


def validation_reward(outcome: StepOutcome) -> float:
    """Decrease of the loss on the validation images, all their patches; any finite number.

    Future work in the paper. It is measured every `reward_every` steps and at the end, and is 0 in
    between: an episode's sum is its first validation loss minus its last.
    """
    return outcome.val_loss_decrease


def progress_reward(outcome: StepOutcome) -> float:
    """Relative decrease of the loss against its running mean, per FLOP; in [-10, 10].

    `(mean_loss - loss) / mean_loss`, divided by the step's FLOPs in units of a step on all patches.
    The ratio of learning progress to cost, similar to the rewards of Graves et al. 2017,
    arXiv:1704.03003, for a curriculum. Few patches raise the loss by themselves, which this reward
    cannot distinguish from learning.
    """
    decrease = (outcome.mean_loss - outcome.loss) / max(outcome.mean_loss, 1e-30)
    return min(max(decrease / max(outcome.flops_share, 1e-30), -MAX_PROGRESS), MAX_PROGRESS)


def aic_reward(outcome: StepOutcome) -> float:
    """Log-likelihood of the labels minus the share of tokens, in (-inf, 0].

    `-(loss + n_selected / n_patches)`: half of Akaike's criterion (Akaike 1974) with the share of
    tokens in place of the number of parameters; all patches cost as much as one nat. Future work
    in the paper.
    """
    return -(outcome.loss + outcome.n_selected / outcome.n_patches)


REWARDS: dict[RewardName, Callable[[StepOutcome], float]] = {
    "paper": paper_reward,
    "validation": validation_reward,
    "progress": progress_reward,
    "aic": aic_reward,
}
