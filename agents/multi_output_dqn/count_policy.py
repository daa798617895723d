"""A policy of MultiOutputDQN that decides how many patches to keep, on any grid."""

import zlib
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from vit_patch_env.agents.common.patch_policy import RUN_FEATURES, check_run_features
from vit_patch_env.agents.multi_output_dqn.policies import MultiOutputPolicy, TakenValues
from vit_patch_env.patches.sampling import Grid, grid_of, sample_spread
from vit_patch_env.patches.shares import counts_at

SHARES = tuple(2 ** (-step / 2) for step in range(8, -1, -1))
"""Of the patches, from a sixteenth to all: what the network has an output for."""


class RunFeatures(BaseFeaturesExtractor):
    """The run features of an observation, as many on any grid of patches.

    Args:
        observation_space: Box(n_patches + 3,).
    """

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, RUN_FEATURES)

    def forward(self, observations: Tensor) -> Tensor:
        """The last features: (batch, 3)."""
        return observations[:, -RUN_FEATURES:]


class CountMlpPolicy(MultiOutputPolicy):
    """One value per number of patches, by the run features alone; the patches are spread evenly.

    Numbers are shares of the patches on a logarithmic scale, so that the network is the same for
    any grid. A mask that another rule has picked counts as the nearest number.

    Args:
        observation_space: Box(n_patches + 3,), the run features last.
        action_space: MultiBinary(n_patches).
        lr_schedule: learning rate by remaining progress.
        net_arch: sizes of the hidden layers.
        kwargs: as for MultiOutputPolicy.

    Attributes:
        seed: of the patches; the same observation gets the same ones.
        grid: rows and columns of patches; None for those of a square.

    Raises:
        ValueError: for an observation without run features.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.MultiBinary,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        n_patches = int(action_space.shape[0])
        check_run_features(observation_space, n_patches, "CountMlpPolicy")
        self.seed: int | None = None
        self.grid: Grid | None = None
        self.counts = counts_at(SHARES, n_patches)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            [64, 64] if net_arch is None else net_arch,
            features_extractor_class=RunFeatures,
            **kwargs,
        )

    @property
    def n_outputs(self) -> int:
        """One for each number of patches."""
        return len(SHARES)

    def _predict(self, obs: PyTorchObs, deterministic: bool = True) -> Tensor:
        """Masks (batch, n_patches) int8 of the best number of patches."""
        assert isinstance(obs, Tensor)
        best = self._possible(self.q_net(obs)).argmax(dim=1).tolist()
        masks = [
            self._sample(place, [self.seed or 0, zlib.crc32(one.tobytes())])
            for place, one in zip(best, obs.cpu().numpy(), strict=True)
        ]
        return torch.from_numpy(np.stack(masks))

    def random_action(self, rng: np.random.Generator) -> NDArray[np.int8]:
        """A mask of one of the numbers of patches, each of which is equally likely."""
        place = self.counts.index(int(rng.choice(sorted(set(self.counts)))))
        return self._sample(place, [int(rng.integers(2**32))])

    def sample_patches(self, n_keep: int, rng: np.random.Generator) -> NDArray[np.int8]:
        """A mask (n_patches,) of so many patches, spread evenly over the image."""
        grid = grid_of(self.n_actions, self.grid)
        return sample_spread(np.zeros(self.n_actions), n_keep, rng, grid)

    def taken_values(self, obs: PyTorchObs, actions: Tensor) -> TakenValues:
        """The value (batch, 1) of the number of patches in each mask."""
        logs = torch.log(torch.tensor(self.counts, dtype=torch.float32, device=actions.device))
        kept = actions.sum(dim=1).clamp(min=1).float()
        places = (kept.log()[:, None] - logs).abs().argmin(dim=1, keepdim=True)
        values = self.q_net(obs).gather(1, places)
        return TakenValues(values, torch.ones_like(values, dtype=torch.bool))

    def next_value(self, next_obs: PyTorchObs) -> Tensor:
        """The highest value of the next state."""
        return self._possible(self.q_net_target(next_obs)).amax(dim=1, keepdim=True)

    def _possible(self, q_values: Tensor) -> Tensor:
        """The values, without those of numbers that an output before has on a small grid."""
        again = [count in self.counts[:place] for place, count in enumerate(self.counts)]
        return q_values.masked_fill(torch.tensor(again, device=q_values.device), -torch.inf)

    def _sample(self, place: int, key: list[int]) -> NDArray[np.int8]:
        """A mask of as many patches as an output stands for."""
        return self.sample_patches(self.counts[place], np.random.default_rng(key))
