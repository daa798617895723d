"""Policies of MultiOutputDQN: the paper's, and action branching."""

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor


class TakenValues(NamedTuple):
    """Values (batch, n_actions), and which of them to learn from, bool (batch, n_actions)."""

    values: Tensor
    taken: Tensor


class MultiOutputPolicy(DQNPolicy):
    """DQN's Q-network and target network, with several outputs, for MultiBinary actions.

    Subclasses define the outputs, the greedy action, the values of the action taken and the value
    of the next state.

    Args:
        observation_space: of the environment.
        action_space: MultiBinary(n_actions).
        lr_schedule: learning rate by remaining progress.
        net_arch: sizes of the hidden layers; by default the paper's (1024, 256).
        optimizer_class: Adam by default.
        optimizer_kwargs: besides the learning rate; by default Adam's eps is 0.01 for
            stability, since with the paper's learning rate of 0.01 and the usual 1e-8 the values
            diverge.
        kwargs: as for Stable-Baselines3's DQNPolicy.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.MultiBinary,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        *,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if optimizer_kwargs is None:
            optimizer_kwargs = {"eps": 0.01} if optimizer_class is torch.optim.Adam else {}
        super().__init__(
            observation_space,
            action_space,  # type: ignore[arg-type]
            lr_schedule,
            [1024, 256] if net_arch is None else net_arch,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            **kwargs,
        )

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Outputs of the network."""

    @property
    def n_actions(self) -> int:
        """Binary actions."""
        return int(self.action_space.shape[0])  # type: ignore[index]

    def random_action(self, rng: np.random.Generator) -> NDArray[np.int8]:
        """An action (n_actions,) to explore with: by default each is equally likely.

        Args:
            rng: the generator of the exploration; the default uses that of the action space.
        """
        del rng
        action: NDArray[np.int8] = self.action_space.sample()
        return action

    def make_q_net(self) -> QNetwork:
        """A Q-network with `n_outputs` outputs."""
        net_args = {**self.net_args, "action_space": spaces.MultiBinary(self.n_outputs)}
        return QNetwork(**self._update_features_extractor(net_args)).to(self.device)

    @abstractmethod
    def _predict(self, obs: PyTorchObs, deterministic: bool = True) -> Tensor:
        """The greedy action (batch, n_actions), int8."""

    @abstractmethod
    def taken_values(self, obs: PyTorchObs, actions: Tensor) -> TakenValues:
        """Values of the actions taken, (batch, n_actions), 0 or 1."""

    @abstractmethod
    def next_value(self, next_obs: PyTorchObs) -> Tensor:
        """Value (batch, 1) of the next state under the target network."""


class PatchValuesPolicy(MultiOutputPolicy):
    """Values of each patch by itself: `values_per_action` outputs for each binary action."""

    values_per_action: int

    @property
    def n_outputs(self) -> int:
        """`values_per_action` for each of the n_actions."""
        return self.values_per_action * self.n_actions

    def _predict(self, obs: PyTorchObs, deterministic: bool = True) -> Tensor:
        """The greedy action (batch, n_actions), int8."""
        return self.greedy(self.q_net(obs)).to(torch.int8)

    @abstractmethod
    def greedy(self, q_values: Tensor) -> Tensor:
        """The best action, bool (batch, n_actions), for the network's outputs."""

    @abstractmethod
    def preferences(self, q_values: Tensor) -> Tensor:
        """How much taking each action is preferred, (batch, n_actions): only ranks are meant."""


class MlpPolicy(PatchValuesPolicy):
    """The paper's policy (sections 2.2 and 2.3): one value per patch.

    The greedy action selects every patch whose value is above the mean of the values. The
    target (equation 2.2) updates the values of the selected patches only.
    """

    values_per_action = 1

    def greedy(self, q_values: Tensor) -> Tensor:
        """All actions whose value is above the mean of the values."""
        return q_values > q_values.mean(dim=1, keepdim=True)

    def preferences(self, q_values: Tensor) -> Tensor:
        """The values themselves."""
        return q_values

    def taken_values(self, obs: PyTorchObs, actions: Tensor) -> TakenValues:
        """All values; those of selected patches are learned from."""
        return TakenValues(self.q_net(obs), actions == 1)

    def next_value(self, next_obs: PyTorchObs) -> Tensor:
        """The highest value of the next state: max_j Q'_j(s')."""
        q_values: Tensor = self.q_net_target(next_obs)
        return q_values.amax(dim=1, keepdim=True)


class BranchingMlpPolicy(PatchValuesPolicy):
    """Action branching (Tavakoli et al. 2018): two values per patch, to drop it and to keep it.

    It can represent any mask, and learns from dropped patches as well.
    """

    values_per_action = 2

    def greedy(self, q_values: Tensor) -> Tensor:
        """The action with the higher value in each branch."""
        return self._branches(q_values).argmax(dim=2) == 1

    def preferences(self, q_values: Tensor) -> Tensor:
        """By how much the value of keeping exceeds that of dropping, in each branch."""
        return self._branches(q_values).diff(dim=2).squeeze(2)

    def taken_values(self, obs: PyTorchObs, actions: Tensor) -> TakenValues:
        """The value of the action taken in each branch."""
        branches = self._branches(self.q_net(obs))
        values = branches.gather(2, actions.long().unsqueeze(2)).squeeze(2)
        return TakenValues(values, torch.ones_like(values, dtype=torch.bool))

    def next_value(self, next_obs: PyTorchObs) -> Tensor:
        """The best value of each branch, averaged: mean_i max_a Q'_{i,a}(s')."""
        best = self._branches(self.q_net_target(next_obs)).amax(dim=2)
        return best.mean(dim=1, keepdim=True)

    @staticmethod
    def _branches(q_values: Tensor) -> Tensor:
        return rearrange(q_values, "b (n branch) -> b n branch", branch=2)  # drop, keep
