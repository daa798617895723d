"""A Stable-Baselines3 algorithm that acts step by step, and learns at most by the way."""

import time
from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback

SelfPlaying = TypeVar("SelfPlaying", bound="PlayingAlgorithm")


class PlayingAlgorithm(BaseAlgorithm):
    """The loop of algorithms without rollouts or replay: act, take the reward, go on."""

    def learn(
        self: SelfPlaying,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfPlaying:
        """Act for `total_timesteps` steps, as every Stable-Baselines3 algorithm does."""
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        self._begin(total_timesteps)
        callback.on_training_start(locals(), globals())
        assert self.env is not None
        while self.num_timesteps < total_timesteps:
            assert isinstance(self._last_obs, np.ndarray)
            callback.on_rollout_start()
            actions = self._act(self._last_obs)
            new_obs, rewards, dones, infos = self.env.step(actions)
            self.num_timesteps += self.env.num_envs
            callback.update_locals(locals())
            go_on = callback.on_step()
            self._take(self._last_obs, actions, rewards, dones, infos)
            if not go_on:
                break
            self._update_info_buffer(infos, dones)
            self._last_obs = new_obs  # type: ignore[assignment]
            self._episode_num += int(dones.sum())
            if dones.any() and self._episode_num % log_interval == 0:
                self.dump_logs()
            callback.on_rollout_end()
        self._end()
        callback.on_training_end()
        return self

    def _begin(self, total_timesteps: int) -> None:
        """Before the first step."""

    @abstractmethod
    def _act(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Actions (n_envs, ...) for observations (n_envs, ...)."""

    def _take(
        self,
        observations: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """After each step: what came of the actions, (n_envs,) each."""

    def _end(self) -> None:
        """After the last step."""

    def dump_logs(self) -> None:
        """Write what was recorded, with the rate of steps and the episodes' rewards."""
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        self.logger.record(
            "time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / seconds)
        )
        self.logger.dump(step=self.num_timesteps)


class Frozen(PlayingAlgorithm):
    """Another algorithm's agent, acting as it has learned to, and learning nothing more.

    Args:
        agent: of any Stable-Baselines3 algorithm, with its environment. It is asked as in
            training, with the randomness that its policy has, a DQN with its last ε.
    """

    def __init__(self, agent: BaseAlgorithm) -> None:
        super().__init__(
            type(agent.policy),
            agent.env,
            learning_rate=0.0,
            device=agent.device,
            seed=agent.seed,
            support_multi_env=True,
        )
        self.agent = agent
        self.policy = agent.policy
        if hasattr(agent, "exploration_rate"):
            ends = [getattr(agent, name, 0.0) for name in ("eps_end", "exploration_final_eps")]
            agent.exploration_rate = max(ends)

    def _setup_model(self) -> None:
        """Nothing: the agent is there."""

    def _act(self, observations: NDArray[Any]) -> NDArray[Any]:
        return self.agent.predict(observations)[0]

    def predict(self, *args: Any, **kwargs: Any) -> tuple[NDArray[Any], Any]:
        """As the agent would."""
        return self.agent.predict(*args, **kwargs)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the agent, as its own algorithm does."""
        self.agent.save(*args, **kwargs)
