"""The belief of a PatchBandit, and the patch masks that it draws from it."""

import zlib
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from vit_patch_env.agents.bandit.regression import BayesianRegression
from vit_patch_env.patches.sampling import DRAWS, DrawName

RUN_FIGURES = 3
"""Numbers at the end of an observation that tell of the run; the first is its progress."""

_PRIOR = (0.0, 0.0, -0.1)
"""What 1, the logarithm of a number of patches, in [-1, 1], and its square are worth at first."""


def possible_counts(n_patches: int) -> list[int]:
    """Arms: from a 16th of the patches to all, about 1.4 times as many from each to the next.

    With fewer still, a step's fixed costs outweigh what its patches cost.
    """
    low = max(n_patches / 16, 1)
    n_arms = round(2 * np.log2(n_patches / low)) + 1
    return sorted({round(float(count)) for count in np.geomspace(low, n_patches, n_arms)})


class BanditPolicy(BasePolicy):
    """Says how many patches to keep at a point of the run, and draws them by their scores.

    What a number of patches is worth is a quadratic function of its logarithm, whose three weights
    change linearly between `n_stages` points of the run; before anything is known, one with its
    highest point in the middle. The linear one also changes with the
    logarithm of the run's length: in a longer run, more patches may be worth more. Patches are
    drawn at random, in proportion to exp(score): all alike while nothing is known of them.

    Args:
        observation_space: Box(n_patches + 3,), the run's figures last.
        action_space: MultiBinary(n_patches).
        n_stages: points of the run, from its start to its end, at least 2.
        prior_precision: of the belief about counts.
        score_precision: of the belief about patches' scores.
        draw: `uniform`, or `spread` over the image.
        seed: of all draws.

    Raises:
        ValueError: for an observation without the run's figures, or a value out of range.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.MultiBinary,
        n_stages: int = 4,
        prior_precision: float = 0.1,
        score_precision: float = 100.0,
        draw: DrawName = "spread",
        seed: int | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.n_patches = int(action_space.shape[0])
        shape, expected = observation_space.shape, (self.n_patches + RUN_FIGURES,)
        if shape != expected:
            raise ValueError(
                f"the bandit needs an observation with the run's figures, such as none+run, of "
                f"shape {expected}, got {shape}"
            )
        if n_stages < 2:
            raise ValueError(f"n_stages must be at least 2, got {n_stages}")
        if draw not in DRAWS:
            raise ValueError(f"draw must be one of {', '.join(DRAWS)}, got {draw!r}")
        self.n_stages = n_stages
        self.counts = possible_counts(self.n_patches)
        weights = torch.cat((torch.tensor(_PRIOR).repeat(n_stages), torch.zeros(n_stages + 2)))
        self.of_counts = BayesianRegression(weights, prior_precision)
        self.of_patches = BayesianRegression(torch.zeros(self.n_patches), score_precision)
        self.budget_steps: Tensor
        self.register_buffer("budget_steps", torch.tensor(512))  # of the run at hand
        self.draw = DRAWS[draw]
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        logs = np.log2(self.counts)
        size = (2 * logs - logs[0] - logs[-1]) / max(logs[-1] - logs[0], 1)  # in [-1, 1]
        self._powers = np.stack([np.ones_like(size), size, size**2])  # (3, n_counts)

    def features(self, progress: float, budget_steps: int) -> NDArray[np.float64]:
        """What each number of patches looks like at a point of a run: (n_counts, n_features).

        Args:
            progress: share of the budget used, in [0, 1].
            budget_steps: steps on all patches that the budget is worth.
        """
        place = np.clip(progress, 0, 1) * (self.n_stages - 1)
        stages = np.maximum(1 - np.abs(place - np.arange(self.n_stages)), 0)
        length = (np.log2(max(budget_steps, 1)) - 9) / 3  # of order 1 from 64 to 4,096 steps
        size = self._powers[1]
        of_all_lengths = np.einsum("s,pc->csp", stages, self._powers).reshape(len(size), -1)
        by_length = length * np.outer(size, stages)
        whole = np.tile([length, length**2], (len(size), 1))
        return np.concatenate((of_all_lengths, by_length, whole), axis=1)

    def best_count(self, progress: float, budget_steps: int, weights: Tensor) -> int:
        """Number of patches that those weights value most."""
        return self.counts[int(np.argmax(self.features(progress, budget_steps) @ weights.numpy()))]

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        """What is best by all that is known: the expected weights and scores.

        With `deterministic` the same observation gets the same patches.
        """
        weights, scores = self.of_counts.mean(), self.of_patches.mean().numpy()
        masks = []
        for one in observation.cpu().numpy():
            rng = self.rng
            if deterministic:
                rng = np.random.default_rng([self.seed or 0, zlib.crc32(one.tobytes())])
            n_keep = self.best_count(one[self.n_patches], int(self.budget_steps), weights)
            masks.append(self.draw(scores, n_keep, rng))
        return torch.from_numpy(np.stack(masks))
