"""A Stable-Baselines3 callback that logs and evaluates a ViT during training."""

import math
import time
from collections.abc import Callable
from functools import partial
from operator import attrgetter, methodcaller
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, Image
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from vit_patch_env import Episode, Metrics
from vit_patch_env.agent_evaluation import APPLY
from vit_patch_env.agents.common.logged_algorithm import LoggedAlgorithm
from vit_patch_env.checks import InputError, check_integer, shown
from vit_patch_env.experiments.run_folder.tables import EpochMetrics
from vit_patch_env.experiments.runs.budget_schedule import follow_budget, follow_steps
from vit_patch_env.experiments.runs.epoch_sums import Clock, EpochSums, StepMetrics
from vit_patch_env.pictures import draw_episode
from vit_patch_env.system.cpu_time import cpu_times, waiting_share
from vit_patch_env.system.memory import peak_memory, reset_peak_memory

_SAVED_ATTRIBUTES = (
    "n_calls", "num_timesteps", "n_selected_mean", "selected", "n_selected", "n_skipped", "flops",
    "peak_memory_bytes", "diverged", "_excluded_seconds", "_train_seconds_before",
    "_flops_before", "_n_episodes", "_n_steps", "_n_selected", "_steps_done", "_recent",
    "_env_excluded_seconds", "_progress",
)  # fmt: skip
"""Attributes of a `TrainingMonitor` that a checkpoint contains unchanged."""

_MEANS = {
    "vit/train_loss": "loss",
    "env/n_selected": "n_selected",
    "env/reward_loss": "reward_loss",
    "env/reward_patch": "reward_patch",
}
"""TensorBoard's tags of means over steps, and where a step's info has the value."""


class TrainingMonitor(BaseCallback):
    """Logs to the agent's TensorBoard, and evaluates the ViT after every epoch.

    Works with `FixedRule`, `PatchBandit` and every Stable-Baselines3 algorithm that steps
    environments itself (ARS evaluates policies instead) on `ViTPatchSelect-v0`, also on several
    environments: scalars are averaged over them, epochs are those of the first. Tags:
    `vit/train_loss`, `vit/val_loss`, `vit/val_accuracy`, `env/n_selected`, `env/reward_loss`,
    `env/reward_patch`, `vit/learning_rate` (of the first environment), `vit/skipped_steps` (steps
    so far whose gradient was not finite), `env/progress` (after every epoch, the share of the
    budget used so far; below 1 at the end of an episode that a wrapper ended); images
    after every epoch: `vit/attention` (the observation), `env/selected` (how often each patch was
    selected) and `env/picture` (the last step: see `vit_patch_env.pictures`).

    Args:
        log_interval: steps between points.
        max_episodes: stop after so many runs of the first environment, which the schedules of the
            agent's learning rate, exploration and clipping then follow; None for no limit.
        hyperparameters: shown in TensorBoard's HPARAMS tab.
        on_step: called with the metrics of every step.
        on_epoch: called with the metrics of every epoch.

    Attributes:
        clock: time spent so far.
        n_selected_mean: patches selected per step so far.
        selected: share of the last epoch's steps in which each patch was selected, (n_patches,).
        n_selected: patches selected in each of its steps.
        step_seconds: of each of them, without the agent's.
        rates: share of tokens in each of them, of models that change it; NaN for others.
        n_skipped: steps so far whose gradient was not finite, so that they changed no weights.
        flops: of training steps, observations and rewards, up to the last epoch's end.
        peak_memory_bytes: of this process, excluding evaluation and counting FLOPs.
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
        check_integer(1, log_interval=log_interval)
        if max_episodes is not None:
            check_integer(1, max_episodes=max_episodes)
        self.log_interval = log_interval
        self.max_episodes = max_episodes
        self.hyperparameters = hyperparameters or {}
        self.step_callback = on_step
        self.epoch_callback = on_epoch
        self.clock = Clock()
        self.n_selected_mean = float("nan")
        self.selected: NDArray[np.float64] = np.zeros(0)
        self.n_selected: list[int] = []
        self.step_seconds: list[float] = []
        self.rates: list[float] = []
        self.n_skipped = 0
        self.flops: float = 0
        self.peak_memory_bytes = 0
        self.diverged = False

    def _on_training_start(self) -> None:
        self.clock = Clock()
        self._excluded_seconds = 0.0
        # Of earlier episodes, minus what this one used before learning started.
        self._train_seconds_before = -self._ask(attrgetter("timings")).train_seconds
        self._flops_before = -self._ask(methodcaller("flops"))
        self.flops = 0
        self._device: torch.device = self._of_first_env("device")
        self.peak_memory_bytes = 0
        reset_peak_memory(self._device)
        self._steps_per_epoch: int = self._of_first_env("steps_per_epoch")
        self._images_per_step: int = self._of_first_env("batch_size")
        self._n_patches: int = self._of_first_env("n_patches")
        self._grid: tuple[int, int] = self._of_first_env("grid")
        self._observation: str = self._of_first_env("observation")
        self._n_episodes = self._n_steps = self._n_selected = self.n_skipped = 0
        self.diverged = False
        self._steps_done: int = self._of_first_env("steps_done")  # of the run
        self._progress: float = self._ask(attrgetter("progress"))
        if self.max_episodes is not None:
            follow_budget(self.model, self._used)
        self._stop_requested = False
        self._recent: list[dict[str, Any]] = []
        self._sums = self._new_sums()
        hyperparameters = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in self.hyperparameters.items()
        }
        if isinstance(self.model, LoggedAlgorithm):
            self.model.logs_points = False  # this callback logs them
        self._n_rollouts = 0
        metrics = {"vit/val_accuracy": 0.0, "env/n_selected": 0.0}
        self._record("hparams", HParam(hyperparameters, metrics))
        # Read last, since reading the episode's FLOPs, above, takes excluded time.
        self._env_excluded_seconds = self._ask(attrgetter("timings")).excluded_seconds
        self._cpu_times = cpu_times()
        self._started = time.perf_counter()

    def stop(self) -> None:
        """End training after the current step: for `on_epoch` and `on_step`."""
        self._stop_requested = True

    def _on_training_end(self) -> None:
        follow_steps(self.model)

    def _on_rollout_start(self) -> None:
        self._n_rollouts += 1

    def _on_step(self) -> bool:
        entered = time.perf_counter()
        if "infos" not in self.locals:
            raise InputError(
                "TrainingMonitor needs an algorithm that gives callbacks the infos of its steps, "
                f"got {type(self.model).__name__}"
            )
        infos, before = self.locals["infos"], self._steps_done
        done = bool(self.locals["dones"][0]) and self._run_has_ended()
        self._add_step(infos[0], float(self.locals["rewards"][0]), done)
        self._recent.extend(infos)
        epsilon: float | None = getattr(self.model, "exploration_rate", None)
        if self.step_callback is not None:
            self.step_callback(
                StepMetrics(self._n_steps, infos[0], epsilon, self._sums.n_selected_mean)
            )
        in_epochs = self._steps_per_epoch
        ends_epoch = done or before // in_epochs < self._steps_done // in_epochs
        if ends_epoch:
            self._end_epoch(infos[0], entered - self._started, done, epsilon)
        self._n_episodes += done
        self._progress = 0.0 if done else infos[0]["progress"]
        if done:
            self._steps_done = self._of_first_env("steps_done")
        stop = self._n_episodes == self.max_episodes
        if stop:  # before the algorithm counts this episode, which it does after the callback
            self.model._update_info_buffer(infos, self.locals["dones"])
        stop |= self._stop_requested
        ends_interval = done or self.n_calls % self.log_interval == 0
        if ends_interval:
            self._record_means()
            rate = self._ask(attrgetter("run.trainer.learning_rate"), ended=done)
            self.logger.record("vit/learning_rate", rate)
        if ends_epoch or ends_interval:
            self._dump(stop=stop)
        self._excluded_seconds += time.perf_counter() - entered
        return not stop

    def _add_step(self, info: dict[str, Any], reward: float, done: bool) -> None:
        # Not the action, which wrappers of the environment may have converted. An environment that
        # is done has already reset itself.
        patch_mask, self._steps_done, seconds, rate = self._ask(
            attrgetter("patch_mask", "run.steps_done", "step_seconds", "run.step_rate"), ended=done
        )
        self._sums.add(info, reward, patch_mask, seconds, rate)
        self.n_skipped += info["skipped"]
        self._n_steps += 1
        self._n_selected += info["n_selected"]
        self.diverged |= info["diverged"]
        self.n_selected_mean = self._n_selected / self._n_steps

    def _end_epoch(
        self, info: dict[str, Any], total_seconds: float, done: bool, epsilon: float | None
    ) -> None:
        """Evaluate, log and report the epoch that the current step completes."""
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory(self._device))
        timings = self._ask(attrgetter("timings"), ended=done)
        # Time excluded during the environment's steps; this callback's own is added in `_on_step`.
        self._excluded_seconds += timings.excluded_seconds - self._env_excluded_seconds
        if done:
            self._excluded_seconds += self._ask(attrgetter("timings")).reset_seconds
        train_seconds = self._train_seconds_before + timings.train_seconds
        self.clock = Clock(total_seconds, train_seconds, self._excluded_seconds)
        flops = self._flops_before + self._ask(methodcaller("flops"), ended=done)
        self._env_excluded_seconds = self._ask(attrgetter("timings")).excluded_seconds
        epoch_flops, self.flops = flops - self.flops, flops
        if done:
            self._train_seconds_before = self.clock.train
            self._flops_before = flops
        val_loss, val_accuracy = self._validate(info, done)
        sums = self._sums
        epoch_train = self.clock.train - sums.start.train
        single_env = self.training_env.num_envs == 1
        epoch_agent = self.clock.agent - sums.start.agent if single_env else math.nan
        metrics = EpochMetrics(
            epoch=info["epoch"] + 1,
            train_loss=sums.loss / sums.n_steps,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            n_selected=sums.n_selected_mean,
            reward=sums.reward / sums.n_steps,
            epsilon=epsilon,
            images_per_second=sums.n_steps * self._images_per_step / (epoch_train + epoch_agent),
            train_seconds=epoch_train,
            agent_seconds=epoch_agent,
            flops=epoch_flops,
            progress=info["progress"],
            n_skipped=sums.n_skipped,
            waiting_share=self._take_waiting_share(),
        )
        self.selected, self.n_selected = sums.patch_masks / sums.n_steps, sums.n_selected
        self.step_seconds, self.rates = sums.step_seconds, sums.rates
        self.logger.record("vit/val_loss", val_loss)
        self.logger.record("vit/val_accuracy", val_accuracy)
        self.logger.record("env/progress", info["progress"])
        observed = self.locals["new_obs"][0][: self._n_patches]
        self._record("vit/attention", _heat_map(observed, self._grid))
        self._record("env/selected", _heat_map(self.selected, self._grid, 0.0, 1.0))
        draw = partial(_small_picture, grid=self._grid, observation=self._observation)
        self._record("env/picture", Image(self._ask(draw, ended=done), "HWC"))
        if self.epoch_callback is not None:
            self.epoch_callback(metrics)
        self._sums = self._new_sums()
        reset_peak_memory(self._device)

    def _validate(self, info: dict[str, Any], done: bool) -> tuple[float, float]:
        """Loss and accuracy on the validation images, which an episode's last info has."""
        if "val_accuracy" in info:
            return info["val_loss"], info["val_accuracy"]
        val: Metrics = self._ask(methodcaller("evaluate", "val"), ended=done)
        return val.loss, val.accuracy

    def _take_waiting_share(self) -> float:
        """Share of the time without a CPU since the last call, or since the run was resumed."""
        before, self._cpu_times = self._cpu_times, cpu_times()
        return waiting_share(before, self._cpu_times)

    def _record_means(self) -> None:
        """Record the means since the last point."""
        for tag, key in _MEANS.items():
            self.logger.record(tag, float(np.mean([info[key] for info in self._recent])))
        self._recent.clear()
        self.logger.record("vit/skipped_steps", self.n_skipped)

    def _dump(self, *, stop: bool) -> None:
        """Write what was recorded, and the steps per second, unless the algorithm is about to."""
        if stop or not self._algorithm_dumps():
            self.model.dump_logs()

    def _algorithm_dumps(self) -> bool:
        """Whether Stable-Baselines3's algorithm logs this step itself, after this callback."""
        interval: int | None = self.locals.get("log_interval")
        if isinstance(self.model, LoggedAlgorithm) or not interval:
            return False
        if isinstance(self.model, OnPolicyAlgorithm):
            n_left = self.locals.get("n_rollout_steps", 0) - self.locals.get("n_steps", 0)
            return bool(n_left == 1 and self._n_rollouts % interval == 0)
        before = self.model._episode_num
        after = before + int(np.sum(self.locals["dones"]))
        return before // interval < after // interval

    def state_dict(self) -> dict[str, Any]:
        """The complete state, as plain data and arrays, for `RunCheckpoint`."""
        return {
            **{name: getattr(self, name) for name in _SAVED_ATTRIBUTES},
            "clock": tuple(self.clock),
            "sums": self._sums.state_dict(),
            "seconds": time.perf_counter() - self._started,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another monitor of the same run, without the time in between.

        Raises:
            ValueError: for a state of other types.
        """
        wrong = [name for name in _SAVED_ATTRIBUTES if not _alike(getattr(self, name), state[name])]
        if wrong or not all(_has_means(info) for info in state["_recent"]):
            name = (wrong or ["_recent"])[0]
            raise InputError(f"a monitor's state with {name} {shown(state[name])}")
        for name in _SAVED_ATTRIBUTES:
            setattr(self, name, state[name])
        self.clock = Clock(*state["clock"])
        self._sums = EpochSums.from_state_dict(state["sums"])
        self._started = time.perf_counter() - state["seconds"]

    def _new_sums(self) -> EpochSums:
        return EpochSums(self.clock, np.zeros(self._n_patches))

    def _record(self, tag: str, value: Any) -> None:
        self.logger.record(tag, value, exclude=("stdout", "log", "json", "csv"))

    def _run_has_ended(self) -> bool:
        """Whether an episode's end is one of the run: wrappers may end episodes within a run."""
        # A new run has not continued the steps of the last one.
        return bool(self._of_first_env("steps_done") <= self._steps_done)

    def _used(self) -> float:
        """The share of the budget of `max_episodes` runs that is used."""
        assert self.max_episodes is not None
        return min((self._n_episodes + self._progress) / self.max_episodes, 1.0)

    def _of_first_env(self, attribute: str) -> Any:
        # Not `get_attr`, as `set_attr` may have set an attribute of a wrapper that hides it.
        return self.training_env.env_method(APPLY, attrgetter(attribute), indices=[0])[0]

    def _ask(self, question: Callable[[Episode], Any], *, ended: bool = False) -> Any:
        """The result of a function of the first environment's running or last ended episode."""
        return self.training_env.env_method("ask", question, ended=ended, indices=[0])[0]


def _small_picture(episode: Episode, grid: tuple[int, int], observation: str) -> NDArray[np.uint8]:
    """The picture of an episode's last step at half its size, as there is one for every epoch.

    In its own process, so that less is sent from it. Of photographs it is 0.2 MB, not 0.6.
    """
    from PIL import Image as Pillow

    picture = draw_episode(episode, grid, observation)
    return np.array(Pillow.fromarray(picture).reduce(2))


def _heat_map(
    values: NDArray[Any],
    grid: tuple[int, int],
    low: float | None = None,
    high: float | None = None,
    zoom: int = 16,
) -> Image:
    """Values (n_patches,) as an image of the patch grid, scaled by default by their range."""
    low = values.min() if low is None else low
    high = values.max() if high is None else high
    cells = ((values - low) / max(high - low, 1e-12)).reshape(grid)
    colours = colormaps["viridis"](np.kron(cells, np.ones((zoom, zoom))))[..., :3]
    return Image((255 * colours).astype(np.uint8), "HWC")


def _alike(own: Any, value: Any) -> bool:
    """Whether an attribute's value from a file is of the kind that the constructor gave it."""
    if isinstance(own, int | float):
        return isinstance(value, int | float)
    return isinstance(value, type(own))


def _has_means(info: Any) -> bool:
    """Whether a step's info has the numbers that are recorded."""
    return isinstance(info, dict) and all(
        isinstance(info.get(key), int | float) for key in _MEANS.values()
    )
