"""MultiOutputDQN: deep Q-learning with one output per binary action."""

import math
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import polyak_update
from torch.nn import functional as F

from vit_patch_env.agents.multi_output_dqn.policies import (
    BranchingMlpPolicy,
    MlpPolicy,
    MultiOutputPolicy,
)

PAPER_EPS_DECAY = 20_000.0
PAPER_TIMESTEPS = 39_000

SelfMultiOutputDQN = TypeVar("SelfMultiOutputDQN", bound="MultiOutputDQN")


def exponential_epsilon(step: int, start: float, end: float, decay: float) -> float:
    """ε after `step` steps: from `start` towards `end`, with time constant `decay` in steps."""
    return end + (start - end) * math.exp(-step / decay)


class MultiOutputDQN(OffPolicyAlgorithm):
    """The agent of AgentViT (Cauteruccio et al. 2024): DQN for MultiBinary actions.

    Huber loss, replay, a softly updated target network, and an ε that decays exponentially. The
    defaults are the paper's Table 1; where Stable-Baselines3's DQN has an argument, it has that
    name here.

    Args:
        policy: `MlpPolicy`, the paper's (one value per action; every action above their mean is
            taken), or `BranchingMlpPolicy` (two values per action).
        env: with a MultiBinary action space.
        learning_rate: η, a number or a schedule of the remaining progress (from 1 to 0).
        buffer_size: transitions in the replay buffer.
        learning_starts: steps of random actions before learning.
        batch_size: transitions per update.
        tau: soft update coefficient τ of the target network, in (0, 1].
        gamma: discount factor γ.
        train_freq: update every that many steps (the paper's `frequency`).
        gradient_steps: updates each time; -1 for as many as steps were taken.
        replay_buffer_class: another replay buffer.
        replay_buffer_kwargs: for the replay buffer.
        optimize_memory_usage: as in Stable-Baselines3.
        n_steps: of n-step returns, as in Stable-Baselines3.
        target_update_interval: soft update of the target every that many *updates* (the paper's
            `update_every`; Stable-Baselines3's DQN counts environment steps).
        eps_start: ε at the start, in [0, 1].
        eps_end: ε in the limit, in [0, 1].
        eps_decay: time constant of ε in steps. None: the paper's 20,000, in proportion for a
            run that is shorter than the paper's 39,000 steps.
        max_grad_norm: bound on the gradient's norm.
        stats_window_size: episodes that rollout figures are averaged over.
        tensorboard_log: folder for TensorBoard, or None.
        policy_kwargs: for the policy, such as `net_arch`.
        verbose: 0 for no output, 1 for information.
        seed: of the agent and of the environment.
        device: `auto`, `cpu` or `cuda`.

    Attributes:
        exploration_rate: ε now.
        eps_decay: its time constant in force, in steps.

    Raises:
        ValueError: for a value outside its range.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "BranchingMlpPolicy": BranchingMlpPolicy,
    }
    policy: MultiOutputPolicy

    def __init__(
        self,
        policy: str | type[MultiOutputPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 0.01,
        buffer_size: int = 1024,
        learning_starts: int = 64,
        batch_size: int = 64,
        tau: float = 0.1,
        gamma: float = 0.95,
        train_freq: int | tuple[int, str] = 10,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int = 2,
        eps_start: float = 1.0,
        eps_end: float = 0.01,
        eps_decay: float | None = None,
        max_grad_norm: float = 10.0,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        frequency = train_freq[0] if isinstance(train_freq, tuple) else train_freq
        for name, value, low, high in (
            ("eps_start", eps_start, 0, 1),
            ("eps_end", eps_end, 0, 1),
            ("gamma", gamma, 0, 1),
            ("tau", tau, 0, 1),
            ("learning_starts", learning_starts, 0, math.inf),
            ("buffer_size", buffer_size, 1, math.inf),
            ("batch_size", batch_size, 1, math.inf),
            ("train_freq", frequency, 1, math.inf),
            ("target_update_interval", target_update_interval, 1, math.inf),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], got {value}")
        for name, positive in (("eps_decay", eps_decay), ("max_grad_norm", max_grad_norm)):
            if positive is not None and not positive > 0:
                raise ValueError(f"{name} must be above 0, got {positive}")
        if not callable(learning_rate) and not learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.MultiBinary,),
            support_multi_env=True,
        )
        self.target_update_interval = target_update_interval
        self.eps_start = eps_start
        self.eps_end = eps_end
        self.eps_decay = PAPER_EPS_DECAY if eps_decay is None else eps_decay
        self._scale_eps_decay = eps_decay is None
        self.max_grad_norm = max_grad_norm
        self.exploration_rate = eps_start
        self._exploration_rng = np.random.default_rng(seed)
        if _init_setup_model:
            self._setup_model()

    def learn(
        self: SelfMultiOutputDQN,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "MultiOutputDQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfMultiOutputDQN:
        """Learn for `total_timesteps` steps, as every Stable-Baselines3 algorithm does."""
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, Any]:
        total_timesteps, callback = super()._setup_learn(total_timesteps, *args, **kwargs)
        if self._scale_eps_decay and self.num_timesteps == 0:
            # A run that is continued keeps its decay: ε never jumps back up.
            self.eps_decay = PAPER_EPS_DECAY * min(1.0, total_timesteps / PAPER_TIMESTEPS)
        self._update_exploration_rate()
        return total_timesteps, callback

    def _on_step(self) -> None:
        self._update_exploration_rate()
        self.logger.record("agent/epsilon", self.exploration_rate)

    def _update_exploration_rate(self) -> None:
        self.exploration_rate = exponential_epsilon(
            self.num_timesteps, self.eps_start, self.eps_end, self.eps_decay
        )

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update the Q-network from replayed transitions, and the target network softly."""
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            replay = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            discounts = self.gamma if replay.discounts is None else replay.discounts
            with torch.no_grad():
                next_value = self.policy.next_value(replay.next_observations)
                target = replay.rewards + (1 - replay.dones) * discounts * next_value  # (batch, 1)
            values, taken = self.policy.taken_values(replay.observations, replay.actions)
            errors = F.huber_loss(values, target.expand_as(values), reduction="none")
            # A batch of empty actions moves nothing: 0 / 1.
            loss = (errors * taken).sum() / taken.sum().clamp(min=1)

            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.policy.q_net.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            losses.append(loss.detach())

            self._n_updates += 1
            if self._n_updates % self.target_update_interval == 0:
                polyak_update(
                    self.policy.q_net.parameters(), self.policy.q_net_target.parameters(), self.tau
                )
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", torch.stack(losses).mean().item())

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Actions for one observation or many: ε-greedy, or greedy if deterministic."""
        actions, state = self.policy.predict(observation, state, episode_start, deterministic=True)
        if not deterministic:
            masks = np.atleast_2d(actions)
            explore = self._exploration_rng.random(len(masks)) < self.exploration_rate
            for index in np.flatnonzero(explore):
                masks[index] = self.action_space.sample()
            actions = masks.reshape(actions.shape)
        return actions, state
