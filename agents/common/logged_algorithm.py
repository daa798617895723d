"""Logging during an episode, which for this environment is an entire training run."""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter
from stable_baselines3.common.type_aliases import MaybeCallback

from vit_patch_env.agents.common.saved_files import SavedAlgorithm

POINT_STEPS = 10
"""Environment steps between points."""

STEP_TAGS = {
    "vit/train_loss": "loss",
    "env/n_selected": "n_selected",
    "env/reward_loss": "reward_loss",
    "env/reward_patch": "reward_patch",
}
"""Keys of every `info` by the tags of their means; those that an environment lacks are left out."""

EPISODE_TAGS = {"vit/val_loss": "val_loss", "vit/val_accuracy": "val_accuracy"}
"""Keys of an episode's last `info` by their tags."""


_OF_A_CALL = ("logs_points", "_recent", "_episode_ends", "_written", "_for_table")
"""Attributes that belong to a call of `learn`, and are not saved with the agent."""


class LoggedAlgorithm(SavedAlgorithm):
    """An algorithm that logs points during an episode, and a table after it.

    Points are means over `POINT_STEPS` steps and over the environments, for TensorBoard and files;
    the terminal gets the tables only.

    Attributes:
        logs_points: whether to log points; `TrainingMonitor`, which logs the same tags, turns it
            off for a call of `learn`.
    """

    logs_points = True
    _recent: list[dict[str, float]] = []  # noqa: RUF012  (replaced when learning starts)
    _episode_ends = False
    _written: tuple[int, list[str]] = (-1, [])  # a step, and the tags written at it
    _for_table: dict[str, Any] = {}  # noqa: RUF012  (values since the last table)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        self.logs_points = True
        self._recent = []
        self._written = (-1, [])
        self._for_table = {}
        return super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_OF_A_CALL]

    def _add_step(
        self, rewards: NDArray[Any], infos: Sequence[dict[str, Any]], dones: NDArray[Any]
    ) -> None:
        """Add a step's results; the last ones of an episode are recorded at once."""
        if not self.logs_points:
            return
        self._episode_ends = bool(dones.any())
        means = {"env/reward": float(np.mean(rewards))}
        ended = [info for info, done in zip(infos, dones, strict=True) if done]
        self._recent.append(means | _means(STEP_TAGS, infos))
        for tag, value in _means(EPISODE_TAGS, ended).items():
            self.logger.record(tag, value)

    def _log_point(self, *, training_ends: bool = False) -> None:
        """Log a point if one is due: after `POINT_STEPS` steps, or when something ends."""
        due = training_ends or self._episode_ends or len(self._recent) >= POINT_STEPS
        if not self._recent or not due:
            return
        values = defaultdict(list)
        for means in self._recent:
            for tag, value in means.items():
                values[tag].append(value)
        for tag, of_steps in values.items():
            self.logger.record(tag, float(np.mean(of_steps)))
        self._recent.clear()
        self._record_summary()
        self._write(tables=False)

    def dump_logs(self) -> None:
        """Log what was recorded, the mean return and the steps per second, once for each step."""
        if self._written[0] != self.num_timesteps:
            self._record_summary()
        self._write(tables=True)

    def _record_summary(self) -> None:
        """Record what Stable-Baselines3's algorithms do."""
        assert self.ep_info_buffer is not None
        assert self.ep_success_buffer is not None
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        n_steps = self.num_timesteps - self._num_timesteps_at_start
        record = self.logger.record
        record("time/episodes", self._episode_num, exclude="tensorboard")
        if self.ep_info_buffer:
            record("rollout/ep_rew_mean", float(np.mean([one["r"] for one in self.ep_info_buffer])))
            record("rollout/ep_len_mean", float(np.mean([one["l"] for one in self.ep_info_buffer])))
        if self.ep_success_buffer:
            record("rollout/success_rate", float(np.mean(self.ep_success_buffer)))
        record("time/fps", int(n_steps / seconds))
        record("time/time_elapsed", int(seconds), exclude="tensorboard")
        record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")

    def _write(self, *, tables: bool) -> None:
        """Write recorded values, each tag once for each step.

        Args:
            tables: whether the terminal gets a table of the values since the last one.
        """
        logger, step = self.logger, self.num_timesteps
        written = self._written[1] if self._written[0] == step else []
        recorded = {
            tag: (value, logger.name_to_excluded[tag])
            for tag, value in logger.name_to_value.items()
        }
        new = {tag: entry for tag, entry in recorded.items() if tag not in written}
        self._written = (step, [*written, *new])
        self._for_table = self._for_table | recorded
        for values in (logger.name_to_value, logger.name_to_count, logger.name_to_excluded):
            values.clear()
        for output in logger.output_formats:
            is_human = isinstance(output, HumanOutputFormat)
            entries = self._for_table if is_human else new
            if isinstance(output, KVWriter) and entries and (tables or not is_human):
                output.write(
                    {tag: value for tag, (value, _) in entries.items()},
                    {tag: excluded for tag, (_, excluded) in entries.items()},
                    step,
                )
        if tables:
            self._for_table = {}


def _means(tags: dict[str, str], infos: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean of each key over the environments whose `info` has it, by its tag."""
    values = {tag: [info[key] for info in infos if key in info] for tag, key in tags.items()}
    return {tag: float(np.mean(of_envs)) for tag, of_envs in values.items() if of_envs}
