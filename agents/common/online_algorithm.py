"""The step-by-step training loop of algorithms that have no rollout or replay buffer."""

from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from vit_patch_env.agents.common.logged_algorithm import LoggedAlgorithm
from vit_patch_env.agents.common.patch_policy import PatchPolicy, count_patches
from vit_patch_env.checks import ArgumentError, shown
from vit_patch_env.patches.sampling import Grid, known_grid

SelfOnlineAlgorithm = TypeVar("SelfOnlineAlgorithm", bound="OnlineAlgorithm")


class OnlineAlgorithm(LoggedAlgorithm):
    """Acts in one environment step at a time, and may learn from each step as it comes.

    Subclasses implement `_act`, and may override `_on_training_start`, `_after_step` and
    `_on_training_end`.

    Attributes:
        rng: the generator of the policy; None before there is one.
        grid: rows and columns of patches of the environment; None if it does not say.
    """

    rng: np.random.Generator | None = None
    grid: Grid | None = None

    def learn(
        self: SelfOnlineAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOnlineAlgorithm:
        """Act for `total_timesteps` environment steps; arguments as in Stable-Baselines3.

        Args:
            total_timesteps: number of environment steps.
            callback: called at every step.
            log_interval: episodes between tables; None for none.
            tb_log_name: of the run's folder in `tensorboard_log`; by default the agent's name.
            reset_num_timesteps: whether to count steps from 0 and reset the environment; if not,
                the running episode continues.
            progress_bar: whether to show one.
        """
        # As in `_setup_learn`, which resets the environment before it returns.
        resets = reset_num_timesteps or self._last_obs is None
        total_timesteps, callback = self._setup_learn(
            total_timesteps,
            callback,
            reset_num_timesteps,
            self.log_name if tb_log_name is None else tb_log_name,
            progress_bar,
        )
        self._on_training_start(total_timesteps, resets=resets)
        callback.on_training_start(locals(), globals())
        assert self.env is not None
        while self.num_timesteps < total_timesteps:
            if not isinstance(self._last_obs, np.ndarray):
                raise ArgumentError(
                    "env", f"must observe arrays, got {shown(self.observation_space)}"
                )
            callback.on_rollout_start()
            actions = self._act(self._last_obs)
            new_obs, rewards, dones, infos = self.env.step(actions)
            self.num_timesteps += self.env.num_envs
            callback.update_locals(locals())
            continue_training = callback.on_step()
            self._after_step(new_obs, actions, rewards, dones, infos)
            self._add_step(rewards, infos, dones)
            if not continue_training:
                break
            self._update_info_buffer(infos, dones)
            self._last_obs = new_obs  # type: ignore[assignment]
            n_before = self._episode_num
            self._episode_num += int(dones.sum())
            self._log_point()
            if log_interval and n_before // log_interval < self._episode_num // log_interval:
                self.dump_logs()
            callback.on_rollout_end()
        self._log_point(training_ends=True)
        self._on_training_end()
        callback.on_training_end()
        return self

    @property
    def log_name(self) -> str:
        """The name of a run's TensorBoard folder, to which Stable-Baselines3 appends a number."""
        return type(self).__name__

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the agent, its environment and the global generators, as a new agent does."""
        super().set_random_seed(seed)
        policy = getattr(self, "policy", None)
        if seed is not None and isinstance(policy, PatchPolicy):
            self.seed = int(seed)
            policy.reseed(self.seed)
            self.rng = policy.rng

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Use another environment, whose grid of patches may be another."""
        super().set_env(env, force_reset)
        if isinstance(self.policy, PatchPolicy):
            self.policy.grid = self.known_grid()

    def known_grid(self) -> Grid | None:
        """Rows and columns of patches: of the environment, or of the one before saving."""
        n_patches = count_patches(self.action_space)
        grid: Any = None
        if self.env is not None and self.env.has_attr("grid"):
            grid = known_grid(n_patches, self.env.get_attr("grid", indices=[0])[0])
        self.grid = grid or known_grid(n_patches, self.grid)
        return self.grid

    def _use_policy(self, policy: PatchPolicy) -> None:
        """Act with a policy that was just constructed."""
        self.policy = policy
        # `load` restores attributes before this call: a loaded agent continues its random stream.
        self.rng = policy.rng = policy.rng if self.rng is None else self.rng

    def _on_training_start(self, total_timesteps: int, *, resets: bool) -> None:
        """Called before the first step.

        Args:
            total_timesteps: number of environment steps at the end.
            resets: whether new episodes start; if not, the running ones continue.
        """

    @abstractmethod
    def _act(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Actions (n_envs, ...) for observations (n_envs, ...)."""

    def _after_step(
        self,
        new_observations: Any,
        actions: NDArray[Any],
        rewards: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Called after each step with its actions and results, (n_envs, ...).

        Where an episode ended, the new observation is the next one's first.
        """

    def _on_training_end(self) -> None:
        """Called after the last step."""
