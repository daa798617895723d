"""One episode: a ViT's training run, what is remembered of it, and what its steps are worth."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.data.batches import Batch
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
from vit_patch_env.training.trainer import Trainer

_WINDOW = 50
"""Steps that running means reach back over."""

MAX_SKIPPED = 10
"""Steps skipped one after the other that end a run: its weights no longer change."""

N_SHOWN = 8
"""Images of a batch that are kept for rendering."""


class Outcome(NamedTuple):
    """What came of a step: its loss and reward, and the terms of equation 2.3.

    Attributes:
        skipped: whether a gradient was not finite, so that the step changed no weights.
        diverged: whether the run ends here: by a loss that is not finite, or as too many steps in
            turn were skipped.
    """

    loss: float
    reward: float
    terms: RewardTerms
    skipped: bool
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
        shown: the first images of the batch last trained on, and its patch mask.
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
        self._n_skipped_in_turn = 0
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
        self.shown = self.trainer.batch.images[:N_SHOWN], patch_mask
        flops_share = self._flops_share(keep)  # at the rate that the step trains with
        loss, skipped, observation = self.trainer.step(keep)
        if np.isfinite(observation).all():
            self.observation = observation
        n_selected, n_patches = int(patch_mask.sum()), len(patch_mask)
        decrease = self._val_loss_decrease()
        self._n_skipped_in_turn = self._n_skipped_in_turn + 1 if skipped else 0
        finite = math.isfinite(loss) and math.isfinite(decrease)
        if not finite or self._n_skipped_in_turn == MAX_SKIPPED:
            patch = patch_term(n_selected, self.settings.n_patches_desired, n_patches)
            return Outcome(loss, DIVERGED_REWARD, RewardTerms(0.0, patch), skipped, diverged=True)
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
        return Outcome(loss, reward, reward_terms(outcome), skipped, diverged=False)

    def state_dict(self) -> dict[str, Any]:
        """All that the episode's further course depends on, as plain data and tensors.

        The trainer's tensors are its own, not copies.
        """
        # A copy, as otherwise the whole batch would be written.
        shown = self.shown and (self.shown[0].clone(), torch.from_numpy(self.shown[1]))
        return {
            "trainer": self.trainer.state_dict(),
            "observation": torch.from_numpy(self.observation),
            "losses": (self._initial_loss, self._mean_loss, self._val_loss),
            "selected_share": self._selected_share,
            "n_skipped_in_turn": self._n_skipped_in_turn,
            "reset_seconds": self.reset_seconds,
            "shown": shown,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where an episode of the same settings was."""
        self.trainer.load_state_dict(state["trainer"])
        self.observation = state["observation"].numpy()
        self._initial_loss, self._mean_loss, self._val_loss = state["losses"]
        self._selected_share = state["selected_share"]
        self._n_skipped_in_turn = state["n_skipped_in_turn"]
        self.reset_seconds = state["reset_seconds"]
        self.shown = None
        if state["shown"] is not None:
            images, patch_mask = state["shown"]
            self.shown = images.to(self.trainer.device), patch_mask.numpy()

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
