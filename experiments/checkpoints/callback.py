"""A Stable-Baselines3 callback that saves a run as it goes, and takes it up again."""

import re
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.checkpoints.recorder import AnswerRecorder
from vit_patch_env.experiments.checkpoints.snapshot import (
    put,
    put_generators,
    take,
    take_generators,
)

LONG_SECONDS = 0.5
"""A rollout of this length can be broken off in its middle; one that is shorter is waited for."""

RETRY_SECONDS = 60.0
"""When a checkpoint that could not be written is tried again, at the latest."""


class Interval(NamedTuple):
    """Time between checkpoints: steps, or seconds, or neither."""

    steps: int | None = None
    seconds: float | None = None


def parse_interval(text: str) -> Interval:
    """What `--checkpoint-every` says.

    Args:
        text: `500` for steps, `5min` or `30s` for time, `never`.

    Raises:
        ValueError: for anything else.
    """
    if text == "never":
        return Interval()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(min|s|)", text, re.ASCII)
    number = float(match[1]) if match else 0.0
    if match is None or not 0 < number < float("inf") or (not match[2] and "." in match[1]):
        raise ValueError(
            f"checkpoint_every must be a number of steps such as 500, a time such as 5min or 30s, "
            f"or never, got {text!r}"
        )
    if not match[2]:
        return Interval(steps=int(match[1]))
    return Interval(seconds=60 * number if match[2] == "min" else number)


class RunCheckpoint(BaseCallback):
    """Saves agent, environments, random generators and callbacks, and goes on from there.

    For any Stable-Baselines3 algorithm and for this package's, on environments in this process.
    With `resume=True`, the same script run again goes on from the newest whole checkpoint, where
    there is one: make agent and environment as before, call `learn` with the same number of steps.
    On one machine and device, with as many threads, it takes the same course as if it had never
    been broken off.

    A checkpoint holds the agent as its rollout began, what the environments answered since, and
    the environments as they are now: the agent hears those answers again when it goes on.

    Args:
        folder: for the checkpoints.
        every: steps (`"500"`) or time (`"5min"`, `"30s"`) between them; `"never"` for only when
            `stop` is called.
        keep: checkpoints to keep, the newest ones.
        callback: of the run, such as a `TrainingMonitor`, or a list of them; it is saved too, and
            not told of what is only said again.
        also: more to be saved, by name: objects with `state_dict` and `load_state_dict`.
        belongs_to: what the run is, as plain data; a checkpoint of another one is refused.
        resume: go on from the newest checkpoint, if there is one; without it the folder must not
            hold any.

    Attributes:
        resumed_steps: steps that the checkpoint had taken which this run went on from, or None.
        saved_steps: steps that the newest checkpoint has taken; 0 where there is none.
        stopped: whether `stop` ended the run.
        seconds: spent on checkpoints.
        ready_seconds: spent on being ready for one.
        n_written: checkpoints written.
        n_failed: checkpoints that could not be written.

    Raises:
        ValueError: for values out of range; with `resume`, if no checkpoint is whole or the
            newest is of another run.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every: str = "5min",
        keep: int = 3,
        callback: BaseCallback | list[BaseCallback] | None = None,
        also: Mapping[str, Any] | None = None,
        belongs_to: Any = None,
        resume: bool = False,
    ) -> None:
        super().__init__()
        self.folder = CheckpointFolder(Path(folder), keep)
        self.every = parse_interval(every)
        if isinstance(callback, list):
            callback = CallbackList(callback)
        self.callback = callback
        self.also = dict(also or {})
        self.belongs_to = belongs_to
        self.stopped = False
        self.seconds = self.ready_seconds = 0.0
        self.n_written = self.n_failed = 0
        self.resumed_steps: int | None = None
        self.saved_steps = 0
        self._asked_to_stop = self._ended = False
        self._wanted = False  # a checkpoint, as soon as it can be made
        self._at_rollout_start: dict[str, Any] | None = None
        self._resumed: dict[str, Any] | None = None
        if resume:
            self._resumed = self._read()
            self.folder.remove_after(self.saved_steps)
        elif self.folder.files:
            raise ValueError(
                f"folder must be without checkpoints, or resume be true, got {self.folder.path}"
            )

    @property
    def restores(self) -> bool:
        """Whether a checkpoint is just being put back."""
        return self._resumed is not None

    def stop(self) -> None:
        """Save after the step at hand, and end the run there. May be called by a signal handler."""
        self._asked_to_stop = True

    def _read(self) -> dict[str, Any] | None:
        state = self.folder.newest()
        if state is None:
            return None
        if not isinstance(state, dict) or "n_steps" not in state or "belongs_to" not in state:
            raise ValueError(f"expected a run's checkpoint in {self.folder.path}, got another file")
        if state["belongs_to"] != self.belongs_to:
            raise ValueError(
                f"expected a checkpoint of this run in {self.folder.path}, got one of another: "
                f"{_difference(state['belongs_to'], self.belongs_to)}"
            )
        self.resumed_steps = self.saved_steps = int(state["n_steps"])
        return state

    def _init_callback(self) -> None:
        if self.callback is not None:
            self.callback.init_callback(self.model)

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        """Hand on the algorithm's variables."""
        if self.callback is not None:
            self.callback.update_locals(locals_)

    def _on_training_start(self) -> None:
        assert self.model.env is not None
        if not isinstance(self.model.env, AnswerRecorder):
            list(_layers(self.model.env))  # refuses what cannot be saved
            self.model.env = AnswerRecorder(self.model.env)
        self.recorder = self.model.env
        if self.callback is not None:
            self.callback.on_training_start(self.locals, self.globals)
        self._next_time = self._time_after(self.every.seconds)
        self._rollout_began = -float("inf")
        # Off-policy algorithms also ask VecNormalize for what it saw, which cannot be said again.
        self._may_break_off = not (
            isinstance(self.model, OffPolicyAlgorithm) and self.model.get_vec_normalize_env()
        )

    def _on_rollout_start(self) -> None:
        if self.callback is not None:
            self.callback.on_rollout_start()
        now = time.monotonic()
        last_seconds, self._rollout_began = now - self._rollout_began, now
        if self._resumed is not None:
            self._go_back(self._resumed)
        # Where rollouts are short, a checkpoint waits for the next one's start instead.
        self._at_rollout_start = None
        self.recorder.forget()
        if self._wanted or (last_seconds >= LONG_SECONDS and self._may_break_off):
            began = time.perf_counter()
            self._at_rollout_start = {
                "agent": take(self.model),
                "generators": take_generators(),
                "n_calls": self.n_calls,
            }
            seconds = time.perf_counter() - began
            self.ready_seconds += seconds
            self._set_aside(seconds)
        self.recorder.remembers = self._at_rollout_start is not None
        if self._wanted:
            self._save()

    def _on_step(self) -> bool:
        if self._resumed is not None:
            if not self.recorder.n_again:
                self._go_on(self._resumed)
            return not self._ended
        if self.stopped:
            return False
        self._ended = self.callback is not None and not self.callback.on_step()
        if self._ended or self._asked_to_stop or self._is_due():
            self._wanted = True
            if self._at_rollout_start is not None:
                self._save()
        return not (self._ended or self.stopped)

    def _on_rollout_end(self) -> None:
        if self.callback is not None:
            self.callback.on_rollout_end()

    def _on_training_end(self) -> None:
        if self.callback is not None:
            self.callback.on_training_end()
        self.model.env = self.recorder.venv

    def _is_due(self) -> bool:
        if self.every.steps is not None and self.n_calls % self.every.steps == 0:
            return True
        return time.monotonic() >= self._next_time

    def _time_after(self, seconds: float | None) -> float:
        return float("inf") if seconds is None else time.monotonic() + seconds

    def _save(self) -> None:
        assert self._at_rollout_start is not None
        self._wanted = False
        self.stopped = self._asked_to_stop and not self._ended
        began = time.perf_counter()
        state = {
            "belongs_to": self.belongs_to,
            "n_steps": self.num_timesteps,
            **self._at_rollout_start,
            "answers": take(self.recorder.answers),
            "environments": [take(layer) for layer in _layers(self.recorder.venv)],
            "callback": take(self.callback),
            "also": {name: take(one.state_dict()) for name, one in self.also.items()},
            "ended": self._ended,
        }
        try:
            self.folder.write(self.num_timesteps, state)
        except OSError as error:
            self.n_failed += 1
            retry = min(self.every.seconds or RETRY_SECONDS, RETRY_SECONDS)
            self._next_time = self._time_after(retry)
            warnings.warn(
                f"no checkpoint could be written at step {self.num_timesteps}: {error}; the last "
                f"one is kept, and the next is tried in {retry:.0f} s",
                stacklevel=2,
            )
        else:
            self.n_written += 1
            self.saved_steps = self.num_timesteps
            self._next_time = self._time_after(self.every.seconds)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self._set_aside(seconds)

    def _set_aside(self, seconds: float) -> None:
        """Tell the environments that this time is no training time."""
        if self.recorder.has_attr("set_aside"):
            self.recorder.env_method("set_aside", seconds)

    def _go_back(self, state: dict[str, Any]) -> None:
        """Put the agent back to where the rollout of the checkpoint began."""
        try:
            put(self.model, state["agent"])
            put_generators(state["generators"])
            self.n_calls = state["n_calls"]
            answers = put(None, state["answers"])
            self.recorder.repeat(answers)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"expected a run's checkpoint in {self.folder.path}, got: {error}"
            ) from error
        # The rate of steps that is logged is that of this process.
        self.model._num_timesteps_at_start = self.model.num_timesteps
        if not answers:
            self._go_on(state)

    def _go_on(self, state: dict[str, Any]) -> None:
        """Put environments and callbacks to where the checkpoint was made: all has been said."""
        layers = list(_layers(self.recorder.venv))
        for layer, its_state in zip(layers, state["environments"], strict=True):
            put(layer, its_state)
        put(self.callback, state["callback"])
        for name, one in self.also.items():
            one.load_state_dict(put(None, state["also"][name]))
        self._ended = state["ended"]
        self._resumed = None
        self._next_time = self._time_after(self.every.seconds)


def _layers(vec_env: VecEnv) -> Iterator[Any]:
    """All that may hold state: the vectorised environments from without, then each one's wrappers.

    Raises:
        ValueError: for environments in other processes.
    """
    while isinstance(vec_env, VecEnvWrapper):
        yield vec_env
        vec_env = vec_env.venv
    if not isinstance(vec_env, DummyVecEnv):
        raise ValueError(
            "checkpoints need environments in this process (DummyVecEnv), "
            f"got {type(vec_env).__name__}"
        )
    yield vec_env
    for env in vec_env.envs:
        while isinstance(env, gym.Wrapper):
            yield env
            env = env.env
        yield env


def _difference(found: Any, expected: Any) -> str:
    """In which value two descriptions of a run differ."""
    if not (isinstance(found, dict) and isinstance(expected, dict)):
        return f"{found}, expected {expected}"
    return ", ".join(
        f"{name} {found.get(name)} instead of {expected.get(name)}"
        for name in {**found, **expected}
        if found.get(name) != expected.get(name)
    )
