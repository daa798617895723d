"""A Stable-Baselines3 callback that watches a ViT being trained: TensorBoard and epoch figures."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter, methodcaller
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, Image

from vit_patch_env import Episode, Metrics
from vit_patch_env.checks import ArgumentError
from vit_patch_env.system.memory import peak_memory, reset_peak_memory


class StepMetrics(NamedTuple):
    """One step of the first environment, and the mean number of patches of its epoch so far."""

    step: int
    info: dict[str, Any]
    epsilon: float | None
    n_selected_mean: float


class EpochMetrics(NamedTuple):
    """One epoch of the first environment; accuracies in [0, 1], losses are cross-entropies.

    Agent's seconds and images per second are not told apart between several environments: then
    they are not a number.
    """

    epoch: int  # of its episode, from 1
    train_loss: float
    val_loss: float
    val_accuracy: float
    n_selected: float
    reward: float
    epsilon: float | None
    images_per_second: float
    train_seconds: float
    agent_seconds: float
    flops: float  # of training steps, observations and rewards
    progress: float  # share of the budget used at its end
    n_skipped: int  # steps whose gradient was not finite


_FIGURES = (
    "n_calls", "num_timesteps", "n_selected_mean", "selected", "n_selected", "n_skipped", "flops",
    "peak_memory_bytes", "diverged", "_apart_seconds", "_past_train_seconds", "_past_flops",
    "_n_episodes", "_n_steps", "_n_selected", "_steps_done", "_recent", "_seconds_aside",
)  # fmt: skip
"""Attributes of a `TrainingMonitor` that a checkpoint holds as they are."""


class Clock(NamedTuple):
    """Seconds since training began, by what they were spent on, up to the last epoch's end.

    Attributes:
        total: all of it.
        train: training steps of the ViT.
        apart: this callback (evaluation, logging), resets, checkpoints, the counting of FLOPs.
    """

    total: float = 0.0
    train: float = 0.0
    apart: float = 0.0

    @property
    def agent(self) -> float:
        """What is left: observation, prediction, replay and updates."""
        return self.total - self.train - self.apart


@dataclass
class _EpochSums:
    """What an epoch's figures are made from."""

    began: Clock
    patch_masks: NDArray[np.float64]
    n_selected: list[int] = field(default_factory=list)
    loss: float = 0.0
    reward: float = 0.0
    n_skipped: int = 0

    @property
    def n_steps(self) -> int:
        return len(self.n_selected)


class TrainingMonitor(BaseCallback):
    """Logs to the agent's TensorBoard from the first steps on, and evaluates every epoch.

    Works with any Stable-Baselines3 algorithm and `FixedRule` on `ViTPatchSelect-v0`, also on
    several environments: scalars are averaged over them, epochs are those of the first. Tags:
    `vit/train_loss`, `vit/val_loss`, `vit/val_accuracy`, `env/n_selected`, `env/reward_loss`,
    `env/reward_patch`, `vit/skipped_steps` (so far, of gradients that were not finite); images once
    an epoch: `vit/attention` (the observation) and `env/selected` (how often each patch was
    selected).

    Args:
        log_interval: steps between points.
        max_episodes: stop after so many episodes of the first environment; None for no limit.
        hyperparameters: shown in TensorBoard's HPARAMS tab.
        on_step: called with every step's figures.
        on_epoch: called with every epoch's figures.

    Attributes:
        clock: where the time went so far.
        n_selected_mean: patches selected per step so far.
        selected: share of the last epoch's steps in which each patch was selected, (n_patches,).
        n_selected: patches selected in each of its steps.
        n_skipped: steps so far whose gradient was not finite, so that they changed no weights.
        flops: of training steps, observations and rewards, up to the last epoch's end.
        peak_memory_bytes: of this process while it trained, evaluation and counting apart.
        diverged: whether a loss was not finite.
    """

    def __init__(
        self,
        *,
        log_interval: int = 10,
        max_episodes: int | None = None,
        hyperparameters: dict[str, Any] | None = None,
        on_step: Callable[[StepMetrics], None] | None = None,
        on_epoch: Callable[[EpochMetrics], None] | None = None,
    ) -> None:
        super().__init__()
        if log_interval < 1:
            raise ArgumentError("log_interval", f"must be at least 1, got {log_interval}")
        self.log_interval = log_interval
        self.max_episodes = max_episodes
        self.hyperparameters = hyperparameters or {}
        self.notify_step = on_step
        self.notify_epoch = on_epoch
        self.clock = Clock()
        self.n_selected_mean = float("nan")
        self.selected: NDArray[np.float64] = np.zeros(0)
        self.n_selected: list[int] = []
        self.n_skipped = 0
        self.flops: float = 0
        self.peak_memory_bytes = 0
        self.diverged = False

    def _on_training_start(self) -> None:
        self.clock = Clock()
        self._apart_seconds = 0.0
        # Of episodes that are over; less what this one trained for before learning began.
        self._past_train_seconds = -self._ask(attrgetter("timings")).train_seconds
        self._past_flops = -self._ask(methodcaller("flops"))
        self.flops = 0
        self._device: torch.device = self._of_first_env("device")
        self.peak_memory_bytes = 0
        reset_peak_memory(self._device)
        self._steps_per_epoch: int = self._of_first_env("steps_per_epoch")
        self._images_per_step: int = self._of_first_env("batch_size")
        self._n_patches: int = self._of_first_env("n_patches")
        self._n_episodes = self._n_steps = self._n_selected = self.n_skipped = 0
        self.diverged = False
        self._steps_done: int = self._of_first_env("steps_done")  # of the episode
        self._recent: list[dict[str, Any]] = []
        self._sums = self._new_sums()
        hyperparameters = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in self.hyperparameters.items()
        }
        metrics = {"vit/val_accuracy": 0.0, "env/n_selected": 0.0}
        self._record("hparams", HParam(hyperparameters, metrics))
        # What the episode has counted so far; reading its FLOPs, above, counts too.
        self._seconds_aside = self._ask(attrgetter("timings")).excluded_seconds
        self._started = time.perf_counter()

    def _on_step(self) -> bool:
        entered = time.perf_counter()
        infos, done = self.locals["infos"], bool(self.locals["dones"][0])
        self._ended = done  # then the environment has reset itself already
        self._count(infos[0], self.locals["rewards"][0])
        self._recent.extend(infos)
        epsilon: float | None = getattr(self.model, "exploration_rate", None)
        if self.notify_step is not None:
            self.notify_step(
                StepMetrics(
                    self._n_steps,
                    infos[0],
                    epsilon,
                    sum(self._sums.n_selected) / self._sums.n_steps,
                )
            )
        self._steps_done += 1
        if done or self._steps_done % self._steps_per_epoch == 0:
            self._end_epoch(infos[0], entered - self._started, done, epsilon)
        self._n_episodes += done
        stop = self._n_episodes == self.max_episodes
        if stop:  # the algorithm would count this episode after the callback, and is stopped first
            self.model._update_info_buffer(infos, self.locals["dones"])
        if done or self.n_calls % self.log_interval == 0:
            self._log_step()
        self._apart_seconds += time.perf_counter() - entered
        return not stop

    def _count(self, info: dict[str, Any], reward: float) -> None:
        sums = self._sums
        sums.n_selected.append(info["n_selected"])
        sums.loss += info["loss"]
        sums.reward += float(reward)
        sums.n_skipped += info["skipped"]
        self.n_skipped += info["skipped"]
        # Not the action: wrappers of the environment make it mean something else.
        sums.patch_masks += self._ask(attrgetter("patch_mask"), ended=self._ended)
        self._n_steps += 1
        self._n_selected += info["n_selected"]
        self.diverged |= info["diverged"]
        self.n_selected_mean = self._n_selected / self._n_steps

    def _end_epoch(
        self, info: dict[str, Any], total_seconds: float, done: bool, epsilon: float | None
    ) -> None:
        """Evaluate, log and report the epoch whose last step was just taken."""
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory(self._device))
        timings = self._ask(attrgetter("timings"), ended=done)
        # What the environment counted in its steps; what is counted here is in this callback.
        self._apart_seconds += timings.excluded_seconds - self._seconds_aside
        if done:
            self._apart_seconds += self._ask(attrgetter("timings")).reset_seconds
        self.clock = Clock(
            total_seconds, self._past_train_seconds + timings.train_seconds, self._apart_seconds
        )
        flops = self._past_flops + self._ask(methodcaller("flops"), ended=done)
        self._seconds_aside = self._ask(attrgetter("timings")).excluded_seconds
        epoch_flops, self.flops = flops - self.flops, flops
        if done:
            self._past_train_seconds = self.clock.train
            self._past_flops = flops
            self._steps_done = 0
        val: Metrics = self._ask(methodcaller("evaluate", "val"), ended=done)
        sums = self._sums
        epoch_train = self.clock.train - sums.began.train
        alone = self.training_env.num_envs == 1
        epoch_agent = self.clock.agent - sums.began.agent if alone else float("nan")
        figures = EpochMetrics(
            epoch=info["epoch"] + 1,
            train_loss=sums.loss / sums.n_steps,
            val_loss=val.loss,
            val_accuracy=val.accuracy,
            n_selected=sum(sums.n_selected) / sums.n_steps,
            reward=sums.reward / sums.n_steps,
            epsilon=epsilon,
            images_per_second=sums.n_steps * self._images_per_step / (epoch_train + epoch_agent),
            train_seconds=epoch_train,
            agent_seconds=epoch_agent,
            flops=epoch_flops,
            progress=info["progress"],
            n_skipped=sums.n_skipped,
        )
        self.selected, self.n_selected = sums.patch_masks / sums.n_steps, sums.n_selected
        self.logger.record("vit/val_loss", val.loss)
        self.logger.record("vit/val_accuracy", val.accuracy)
        self._record("vit/attention", _heat_map(self.locals["new_obs"][0][: self._n_patches]))
        self._record("env/selected", _heat_map(self.selected, 0.0, 1.0))
        self.model.dump_logs()
        if self.notify_epoch is not None:
            self.notify_epoch(figures)
        self._sums = self._new_sums()
        reset_peak_memory(self._device)

    def _log_step(self) -> None:
        """Write the means since the last point."""
        for tag, key in (
            ("vit/train_loss", "loss"),
            ("env/n_selected", "n_selected"),
            ("env/reward_loss", "reward_loss"),
            ("env/reward_patch", "reward_patch"),
        ):
            self.logger.record(tag, float(np.mean([info[key] for info in self._recent])))
        self._recent.clear()
        self.logger.record("vit/skipped_steps", self.n_skipped)
        self.model.dump_logs()

    def state_dict(self) -> dict[str, Any]:
        """All figures so far, as plain data and arrays: for `RunCheckpoint`."""
        return {
            **{name: getattr(self, name) for name in _FIGURES},
            "clock": tuple(self.clock),
            "sums": {**vars(self._sums), "began": tuple(self._sums.began)},
            "seconds": time.perf_counter() - self._started,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another of the same run was; the time in between does not count."""
        for name in _FIGURES:
            setattr(self, name, state[name])
        self.clock = Clock(*state["clock"])
        self._sums = _EpochSums(**{**state["sums"], "began": Clock(*state["sums"]["began"])})
        self._started = time.perf_counter() - state["seconds"]

    def _new_sums(self) -> _EpochSums:
        return _EpochSums(self.clock, np.zeros(self._n_patches))

    def _record(self, tag: str, value: Any) -> None:
        self.logger.record(tag, value, exclude=("stdout", "log", "json", "csv"))

    def _of_first_env(self, attribute: str) -> Any:
        return self.training_env.get_attr(attribute, indices=[0])[0]

    def _ask(self, question: Callable[[Episode], Any], *, ended: bool = False) -> Any:
        """The first environment's running episode, or the one that ended last."""
        return self.training_env.env_method("ask", question, ended=ended, indices=[0])[0]


def _heat_map(
    values: NDArray[Any], low: float | None = None, high: float | None = None, zoom: int = 16
) -> Image:
    """Values (n_patches,) as a picture of the patch grid; by default their range is the scale."""
    low = values.min() if low is None else low
    high = values.max() if high is None else high
    side = math.isqrt(len(values))
    grid = ((values - low) / max(high - low, 1e-12)).reshape(side, side)
    colours = colormaps["viridis"](np.kron(grid, np.ones((zoom, zoom))))[..., :3]
    return Image((255 * colours).astype(np.uint8), "HWC")
