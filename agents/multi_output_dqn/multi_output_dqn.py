"""MultiOutputDQN: deep Q-learning with one output per binary action."""

from collections.abc import Mapping
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

from vit_patch_env.agents.common.logged_algorithm import LoggedAlgorithm
from vit_patch_env.agents.common.patch_policy import count_patches
from vit_patch_env.agents.common.saved_files import Count
from vit_patch_env.agents.multi_output_dqn.count_policy import CountMlpPolicy
from vit_patch_env.agents.multi_output_dqn.exploration import (
    PAPER_DECAY_STEPS,
    default_decay_steps,
    exponential_epsilon,
)
from vit_patch_env.agents.multi_output_dqn.options import DQNOptions
from vit_patch_env.agents.multi_output_dqn.policies import (
    BranchingMlpPolicy,
    MlpPolicy,
    MultiOutputPolicy,
)
from vit_patch_env.checks import check
from vit_patch_env.patches.sampling import Grid, grid_of, known_grid

SelfMultiOutputDQN = TypeVar("SelfMultiOutputDQN", bound="MultiOutputDQN")


class MultiOutputDQN(LoggedAlgorithm, OffPolicyAlgorithm):
    """The agent of AgentViT (Cauteruccio et al. 2024): DQN for MultiBinary actions.

    Huber loss, replay buffer, soft updates of the target network, and ε-greedy exploration with
    exponential decay. The defaults are the paper's Table 1. Arguments have the names of
    Stable-Baselines3's DQN where it has them; types and ranges are declared in `DQNOptions`.

    Args:
        policy: `MlpPolicy`, the paper's (one value per action; the greedy action selects all above
            the mean value), `BranchingMlpPolicy` (two values per action), or `CountMlpPolicy` (one
            value per number of patches, on any grid).
        env: with a MultiBinary action space.
        learning_rate: η, a number or a schedule of the remaining progress (from 1 to 0).
        buffer_size: transitions in the replay buffer.
        learning_starts: steps with random actions before learning starts.
        batch_size: transitions per update.
        tau: soft update coefficient τ of the target network.
        gamma: discount factor γ.
        train_freq: environment steps between updates (the paper's `frequency`), or a tuple such as
            (1, "episode").
        gradient_steps: updates each time; -1 for as many as there were steps.
        replay_buffer_class: another replay buffer.
        replay_buffer_kwargs: of the replay buffer.
        optimize_memory_usage: as in Stable-Baselines3.
        n_steps: of n-step returns, as in Stable-Baselines3.
        target_update_interval: *updates* between soft updates of the target network (the paper's
            `update_every`; Stable-Baselines3's DQN counts environment steps).
        exploration_initial_eps: ε at the first step (the paper's ε_start).
        exploration_final_eps: limit of ε (the paper's ε_end).
        exploration_decay_steps: time constant of ε in steps (the paper's decay constant). None:
            the paper's 20,000, scaled down for a run shorter than the paper's 39,000 steps.
        max_grad_norm: maximum norm for gradient clipping.
        stats_window_size: number of episodes that logged rewards and lengths are averaged over.
        tensorboard_log: folder for TensorBoard, or None.
        policy_kwargs: of the policy, such as `net_arch`.
        verbose: 0 for no output, 1 for information.
        seed: of the agent and the environment.
        device: `auto`, `cpu` or `cuda`.

    Attributes:
        exploration_rate: current ε.
        exploration_decay_steps: time constant of ε in use, in steps.
        grid: rows and columns of patches, for a policy that samples them; None for a square.

    Raises:
        ValueError: for a value outside its range.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "BranchingMlpPolicy": BranchingMlpPolicy,
        "CountMlpPolicy": CountMlpPolicy,
    }
    renamed: ClassVar[Mapping[str, str]] = {
        "eps_start": "exploration_initial_eps",
        "eps_end": "exploration_final_eps",
        "eps_decay": "exploration_decay_steps",
        "_scale_eps_decay": "_scale_decay_steps",
    }
    scaled_arguments = frozenset({"exploration_decay_steps"})
    """Those that `learn` scales to the length of the run where they are None."""

    options = DQNOptions
    policy: MultiOutputPolicy
    grid: Grid | None = None

    def __init__(
        self,
        policy: str | type[MultiOutputPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = DQNOptions.learning_rate,
        buffer_size: int = DQNOptions.buffer_size,
        learning_starts: int = DQNOptions.learning_starts,
        batch_size: int = DQNOptions.batch_size,
        tau: float = DQNOptions.tau,
        gamma: float = DQNOptions.gamma,
        train_freq: int | tuple[int, str] = DQNOptions.train_freq,
        gradient_steps: int = DQNOptions.gradient_steps,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int = DQNOptions.target_update_interval,
        exploration_initial_eps: float = DQNOptions.exploration_initial_eps,
        exploration_final_eps: float = DQNOptions.exploration_final_eps,
        exploration_decay_steps: float | None = DQNOptions.exploration_decay_steps,
        max_grad_norm: float = DQNOptions.max_grad_norm,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        frequency, *unit = train_freq if isinstance(train_freq, tuple) else (train_freq,)
        options = DQNOptions(  # checks the values
            learning_rate=DQNOptions.learning_rate if callable(learning_rate) else learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=frequency,
            gradient_steps=gradient_steps,
            target_update_interval=target_update_interval,
            exploration_initial_eps=exploration_initial_eps,
            exploration_final_eps=exploration_final_eps,
            exploration_decay_steps=exploration_decay_steps,
            max_grad_norm=max_grad_norm,
        )
        super().__init__(
            policy,
            env,
            learning_rate if callable(learning_rate) else options.learning_rate,
            options.buffer_size,
            options.learning_starts,
            options.batch_size,
            options.tau,
            options.gamma,
            (options.train_freq, *unit) if unit else options.train_freq,
            options.gradient_steps,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=check(Count, n_steps=n_steps),
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
        self.target_update_interval = options.target_update_interval
        self.exploration_initial_eps = options.exploration_initial_eps
        self.exploration_final_eps = options.exploration_final_eps
        self.exploration_decay_steps = options.exploration_decay_steps or PAPER_DECAY_STEPS
        self._scale_decay_steps = options.exploration_decay_steps is None
        self._scaled_decay_steps = self.exploration_decay_steps
        self.max_grad_norm = options.max_grad_norm
        self.exploration_rate = self.exploration_initial_eps
        self._exploration_rng = np.random.default_rng(self.seed)
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        count_patches(self.action_space)
        # `load` restores attributes before this call: a loaded agent continues its random stream.
        rng = self._exploration_rng
        super()._setup_model()
        self._exploration_rng = rng
        self._place_policy()

    def _place_policy(self) -> None:
        """Tell a policy that samples patches the seed, and the grid of the environment."""
        policy: Any = self.policy
        if isinstance(policy, CountMlpPolicy):
            policy.seed = self.seed
            if self.env is not None and self.env.has_attr("grid"):
                self.grid = self.env.get_attr("grid", indices=[0])[0]
            policy.grid = known_grid(policy.n_actions, self.grid)
            grid_of(policy.n_actions, policy.grid)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Use another environment, whose grid of patches may be another."""
        super().set_env(env, force_reset)
        self._place_policy()

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the agent, its exploration, its environment and the global generators."""
        super().set_random_seed(seed)
        if seed is not None:
            self.seed = int(seed)
            self._exploration_rng = np.random.default_rng(self.seed)
            if hasattr(self, "policy"):
                self._place_policy()

    @classmethod
    def load(
        cls: type[SelfMultiOutputDQN], path: Any, *args: Any, **kwargs: Any
    ) -> SelfMultiOutputDQN:
        """Load an agent; arguments as in Stable-Baselines3.

        Raises:
            ValueError: for a hyperparameter outside its range.
        """
        agent = super().load(path, *args, **kwargs)
        if "exploration_decay_steps" in kwargs:
            agent._scale_decay_steps = kwargs["exploration_decay_steps"] is None
            agent.exploration_decay_steps = kwargs["exploration_decay_steps"] or PAPER_DECAY_STEPS
        agent._scaled_decay_steps = agent.exploration_decay_steps
        return agent

    def learn(
        self: SelfMultiOutputDQN,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "MultiOutputDQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfMultiOutputDQN:
        """Learn for `total_timesteps` environment steps; arguments as in Stable-Baselines3.

        `log_interval` is the number of episodes between tables; None for none.
        """
        super().learn(
            total_timesteps,
            callback,
            log_interval,  # type: ignore[arg-type]  # Stable-Baselines3 takes None as well
            tb_log_name,
            reset_num_timesteps,
            progress_bar,
        )
        self._log_point(training_ends=True)
        return self

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, Any]:
        total_timesteps, callback = super()._setup_learn(total_timesteps, *args, **kwargs)
        if self.exploration_decay_steps != self._scaled_decay_steps:  # it was assigned
            self._scale_decay_steps = False
        if self._scale_decay_steps and self.num_timesteps == 0:
            # A continued run keeps its time constant, so that ε never jumps back up.
            self.exploration_decay_steps = default_decay_steps(self._horizon(total_timesteps))
            self._scaled_decay_steps = self.exploration_decay_steps
        self._update_exploration_rate()
        return total_timesteps, callback

    def _horizon(self, total_timesteps: int) -> float:
        """The steps within which to learn: `total_timesteps`, or fewer if runs are to be shorter.

        The upper bound that `ViTPatchSelect-v0` gives for `learn` is far above the expected number
        of steps if its budget is in FLOPs or seconds.
        """
        assert self.env is not None
        if not (self.env.has_attr("max_steps") and self.env.has_attr("expected_steps")):
            return total_timesteps
        expected: int = sum(self.env.get_attr("expected_steps"))
        bound: int = sum(self.env.get_attr("max_steps"))
        return min(total_timesteps, max(expected, total_timesteps * expected / bound))

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: NDArray[Any],
        new_obs: Any,
        reward: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        self._add_step(reward, infos, dones)

    def _on_step(self) -> None:
        self._update_exploration_rate()
        self.logger.record("agent/epsilon", self.exploration_rate)
        self._log_point()

    def _update_exploration_rate(self) -> None:
        self.exploration_rate = exponential_epsilon(
            self.num_timesteps,
            self.exploration_initial_eps,
            self.exploration_final_eps,
            self.exploration_decay_steps,
        )

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Random actions before learning starts, then those of `predict`."""
        if self.num_timesteps >= learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        rng = self._exploration_rng
        actions = np.array([self.policy.random_action(rng) for _ in range(n_envs)])
        return actions, actions

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update the Q-network on replayed transitions, and the target network softly."""
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
            # A batch of empty actions changes nothing: 0 / 1.
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
        """Actions for one or many observations: ε-greedy, or greedy if deterministic."""
        actions, state = self.policy.predict(observation, state, episode_start, deterministic=True)
        if not deterministic:
            masks = np.atleast_2d(actions)
            explore = self._exploration_rng.random(len(masks)) < self.exploration_rate
            for index in np.flatnonzero(explore):
                masks[index] = self.policy.random_action(self._exploration_rng)
            actions = masks.reshape(actions.shape)
        return actions, state
