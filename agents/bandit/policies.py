"""The model of a PatchBandit, and the patch masks that it samples."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vit_patch_env.agents.bandit.options import BanditOptions
from vit_patch_env.agents.bandit.regression import BayesianRegression
from vit_patch_env.agents.common.patch_policy import (
    PatchPolicy,
    check_run_features,
    observed_progress,
)
from vit_patch_env.patches.sampling import SAMPLERS, Grid, SamplingName, grid_of, known_grid

_PRIOR = (0.0, 0.0, -0.1)
"""Prior means of the weights of 1, x and x², where x in [-1, 1] is the log number of patches."""


def possible_counts(n_patches: int) -> list[int]:
    """Arms of the bandit, ascending: from 1/16 of the patches to all, in factors of about 1.4.

    With even fewer patches, the fixed costs of a step dominate.
    """
    low = max(n_patches / 16, 1)
    n_arms = round(2 * np.log2(n_patches / low)) + 1
    return sorted({round(float(count)) for count in np.geomspace(low, n_patches, n_arms)})


def resampled(scores: Tensor, grid: Grid, other: Grid) -> Tensor:
    """Scores of a grid's patches on another grid: (rows * columns of the other,).

    Bilinear between the centres of patches, and averaged over those that a larger patch covers.

    Args:
        scores: of the first grid's patches, (rows * columns,).
        grid: rows and columns of patches.
        other: rows and columns of the other grid.
    """
    image = scores.view(1, 1, *grid)
    return functional.interpolate(image, size=other, mode="bilinear", antialias=True).flatten()


class BanditPolicy(PatchPolicy):
    """Picks a number of patches by the progress of the run, and samples patches by their scores.

    The value of a number of patches is a quadratic function of its logarithm. Its three weights
    are interpolated linearly between `n_stages` points of the run; the prior has its maximum at
    the middle number. The linear weight also depends on the logarithm of the run's length, since
    longer runs may favour more patches. Patches are sampled with weights exp(score); the prior
    scores are equal.

    Types and ranges of its hyperparameters are declared in `BanditOptions`.

    Args:
        observation_space: Box(n_patches + 3,), the run features last.
        action_space: MultiBinary(n_patches).
        n_stages: points of the run, from its start to its end.
        prior_precision: prior precision of the weights of numbers of patches.
        score_precision: prior precision of the patches' scores.
        sampling: how patches are sampled: `uniform`, or `spread` evenly over the image.
        seed: of the samples of the model and of patches.
        grid: rows and columns of patches, if they are known.

    Raises:
        ValueError: for an observation without run features, a value outside its range, or `spread`
            where the grid is not known and no square.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.MultiBinary,
        n_stages: int = BanditOptions.n_stages,
        prior_precision: float = BanditOptions.prior_precision,
        score_precision: float = BanditOptions.score_precision,
        sampling: SamplingName = BanditOptions.sampling,
        seed: int | None = None,
        grid: Grid | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, seed, grid)
        check_run_features(observation_space, self.n_patches, "the bandit")
        options = BanditOptions(  # checks the values
            n_stages=n_stages,
            prior_precision=prior_precision,
            score_precision=score_precision,
            sampling=sampling,
        )
        if options.sampling == "spread":
            grid_of(self.n_patches, self.grid)
        self.n_stages = n_stages = options.n_stages
        self.counts = possible_counts(self.n_patches)
        weights = torch.cat((torch.tensor(_PRIOR).repeat(n_stages), torch.zeros(n_stages + 2)))
        self.of_counts = BayesianRegression(weights, options.prior_precision)
        self.of_patches = BayesianRegression(torch.zeros(self.n_patches), options.score_precision)
        self.rows_columns: Tensor
        self.register_buffer("rows_columns", torch.tensor(self.grid or (0, 0)))  # 0: not known
        self.budget_steps: Tensor
        self.register_buffer("budget_steps", torch.tensor(512))  # of the current run
        self.sampling = options.sampling
        logs = np.log2(self.counts)
        size = (2 * logs - logs[0] - logs[-1]) / max(logs[-1] - logs[0], 1)  # in [-1, 1]
        self._powers = np.stack([np.ones_like(size), size, size**2])  # (3, n_counts)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what a policy has learned, on any number of patches.

        The number of patches is a share of them in its features, so that what it knows of it stays
        as it is. The patches' scores are resampled over the grid; how certain they are is not known
        there, so that they become prior means.

        Raises:
            ValueError: if the grid of one of the two is not known, and its patches form no square.
        """
        name = "of_patches."
        n_patches = len(state_dict.get(f"{name}prior_mean", self.of_patches.prior_mean))
        grid = known_grid(n_patches, state_dict.get("rows_columns", torch.zeros(2)).tolist())
        new: dict[str, Tensor] = {}
        if n_patches != self.n_patches or grid not in (None, self.grid):
            learned = BayesianRegression(torch.zeros(n_patches), self.of_patches.prior_precision)
            learned.load_state_dict(
                {key.removeprefix(name): state_dict[key] for key in state_dict if name in key}
            )
            prior = resampled(
                learned.mean(), grid_of(n_patches, grid), grid_of(self.n_patches, self.grid)
            )
            fresh = BayesianRegression(prior, self.of_patches.prior_precision)
            new = {name + key: value for key, value in fresh.state_dict().items()}
        own = {**state_dict, **new, "rows_columns": self.rows_columns}
        return super().load_state_dict(own, strict, assign)

    def features(self, progress: float, budget_steps: int) -> NDArray[np.float64]:
        """Regression features of each number of patches: (n_counts, n_features).

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
        of_length = np.tile([length, length**2], (len(size), 1))
        return np.concatenate((of_all_lengths, by_length, of_length), axis=1)

    def best_count(self, progress: float, budget_steps: int, weights: Tensor) -> int:
        """Number of patches with the highest value under the weights (n_features,)."""
        return self.counts[int(np.argmax(self.features(progress, budget_steps) @ weights.numpy()))]

    def sample_patches(
        self, scores: NDArray[np.float64], n_keep: int, rng: np.random.Generator
    ) -> NDArray[np.int8]:
        """Patch mask (n_patches,) of `n_keep` patches, sampled by their scores (n_patches,)."""
        return SAMPLERS[self.sampling](scores, n_keep, rng, self.grid)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        """Acts by the posterior mean of weights and scores.

        With `deterministic=True` the same observation gets the same patches.
        """
        weights, scores = self.of_counts.mean(), self.of_patches.mean().numpy()
        masks = []
        for one in observation.cpu().numpy():
            rng = self.rng
            if deterministic:
                rng = np.random.default_rng([self.seed or 0, zlib.crc32(one.tobytes())])
            n_keep = self.best_count(
                observed_progress(one, self.n_patches), int(self.budget_steps), weights
            )
            masks.append(self.sample_patches(scores, n_keep, rng))
        return torch.from_numpy(np.stack(masks))
