"""One episode: a ViT's training run, what is remembered of it, and what its steps are worth."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.batches import Batch
from vit_patch_env.observation import run_figures
from vit_patch_env.reward import (
    DIVERGED_REWARD,
    REWARDS,
    RewardName,
    RewardTerms,
    StepOutcome,
    patch_term,
    reward_terms,
)
from vit_patch_env.training import Trainer

_WINDOW = 50
"""Steps that running means reach back over."""


class Outcome(NamedTuple):
    """What came of a step: its loss and reward, and the terms of equation 2.3."""

    loss: float
    reward: float
    terms: RewardTerms
    diverged: bool


class RewardSettings(NamedTuple):
    """Which reward, and its values; as the environment's arguments of these names."""

    name: RewardName
    n_patches_desired: int | None
    alpha: float
    every: int


@dataclass
class Episode:
    """What `reset` makes and `step` advances.

    Attributes:
        trainer: of the ViT.
        settings: of the reward.
        held_out: batches that the held-out loss is measured on, if the reward needs it.
        observation: of the next batch, (n_patches,); the last healthy one after a divergence.
        reset_seconds: time that `reset` took.
        shown: images and patch mask last trained on.
    """

    trainer: Trainer
    settings: RewardSettings
    held_out: list[Batch]
    observation: NDArray[np.float32] = field(init=False)
    reset_seconds: float = 0.0
    shown: tuple[Tensor, NDArray[np.bool_]] | None = None

    def __post_init__(self) -> None:
        self.observation = self.trainer.observe(self.trainer.batch.images).cpu().numpy()
        self._initial_loss = self._mean_loss = math.nan
        self._selected_share = 1.0
        self._val_loss = self.trainer.validation_loss(self.held_out) if self.held_out else math.nan
        self.trainer.update_progress()

    @property
    def run_figures(self) -> NDArray[np.float32]:
        """Share of the budget used, running loss over the first, running share of patches: (3,)."""
        ratio = self._mean_loss / self._initial_loss if self._initial_loss > 0 else 1.0
        return run_figures(self.trainer.progress, ratio, self._selected_share)

    def step(self, patch_mask: NDArray[np.bool_], keep: Tensor | None) -> Outcome:
        """Train on the next batch, and say what came of it.

        Args:
            patch_mask: (n_patches,), True = train on this patch.
            keep: the same as indices (n_keep,) on the device, or None for all.
        """
        self.shown = self.trainer.batch.images, patch_mask
        flops_share = self._flops_share(keep)  # at the rate that the step trains with
        loss, observation = self.trainer.step(keep)
        if np.isfinite(observation).all():
            self.observation = observation
        n_selected, n_patches = int(patch_mask.sum()), len(patch_mask)
        decrease = self._val_loss_decrease()
        if not (math.isfinite(loss) and math.isfinite(decrease)):
            patch = patch_term(n_selected, self.settings.n_patches_desired, n_patches)
            return Outcome(loss, DIVERGED_REWARD, RewardTerms(0.0, patch), diverged=True)
        if self.trainer.n_steps_done == 1:
            self._initial_loss = self._mean_loss = loss
        outcome = StepOutcome(
            loss=loss,
            initial_loss=self._initial_loss,
            mean_loss=self._mean_loss,
            n_selected=n_selected,
            n_desired=self.settings.n_patches_desired,
            n_patches=n_patches,
            alpha=self.settings.alpha,
            flops_share=flops_share,
            val_loss_decrease=decrease,
        )
        weight = 1 / min(self.trainer.n_steps_done, _WINDOW)
        self._mean_loss += weight * (loss - self._mean_loss)
        self._selected_share += weight * (n_selected / n_patches - self._selected_share)
        reward = REWARDS[self.settings.name](outcome)
        return Outcome(loss, reward, reward_terms(outcome), diverged=False)

    def _val_loss_decrease(self) -> float:
        """Of the held-out loss since it was last measured; 0 where it is not this step's turn."""
        trainer = self.trainer
        if not self.held_out:
            return 0.0
        if trainer.n_steps_done % self.settings.every and trainer.progress < 1:
            return 0.0
        before, self._val_loss = self._val_loss, trainer.validation_loss(self.held_out)
        trainer.update_progress()
        return before - self._val_loss

    def _flops_share(self, keep: Tensor | None) -> float:
        """The step's FLOPs over those of one on all patches, where the reward asks for them."""
        if self.settings.name != "progress" or keep is None:
            return 1.0
        return self.trainer.step_flops(keep) / self.trainer.step_flops()
