"""The step-by-step training loop of algorithms that have no rollout or replay buffer."""

import time
from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import MaybeCallback

from vit_patch_env.agents.common.saved_files import SavedAlgorithm

SelfOnlineAlgorithm = TypeVar("SelfOnlineAlgorithm", bound="OnlineAlgorithm")


class OnlineAlgorithm(SavedAlgorithm):
    """Acts in one environment step at a time, and may learn from each step as it comes.

    Subclasses implement `_act`, and may override `_on_training_start`, `_after_step` and
    `_on_training_end`.
    """

    def learn(
        self: SelfOnlineAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOnlineAlgorithm:
        """Act for `total_timesteps` environment steps; arguments as in Stable-Baselines3."""
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        self._on_training_start(total_timesteps)
        callback.on_training_start(locals(), globals())
        assert self.env is not None
        while self.num_timesteps < total_timesteps:
            assert isinstance(self._last_obs, np.ndarray)
            callback.on_rollout_start()
            actions = self._act(self._last_obs)
            new_obs, rewards, dones, infos = self.env.step(actions)
            self.num_timesteps += self.env.num_envs
            callback.update_locals(locals())
            continue_training = callback.on_step()
            self._after_step(self._last_obs, actions, rewards, dones, infos)
            if not continue_training:
                break
            self._update_info_buffer(infos, dones)
            self._last_obs = new_obs  # type: ignore[assignment]
            self._episode_num += int(dones.sum())
            if dones.any() and self._episode_num % log_interval == 0:
                self.dump_logs()
            callback.on_rollout_end()
        self._on_training_end()
        callback.on_training_end()
        return self

    def _on_training_start(self, total_timesteps: int) -> None:
        """Called before the first step."""

    @abstractmethod
    def _act(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Actions (n_envs, ...) for observations (n_envs, ...)."""

    def _after_step(
        self,
        observations: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Called after each step with its observations, actions and results, (n_envs, ...)."""

    def _on_training_end(self) -> None:
        """Called after the last step."""

    def dump_logs(self) -> None:
        """Log the recorded values, steps per second and mean episode reward."""
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        self.logger.record(
            "time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / seconds)
        )
        self.logger.dump(step=self.num_timesteps)
