"""A Stable-Baselines3 callback that saves checkpoints of a training run and resumes it."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from vit_patch_env.checks import InputError
from vit_patch_env.experiments.checkpoints.contents import as_of, check_checkpoint, is_same
from vit_patch_env.experiments.checkpoints.environments import env_layers
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.checkpoints.generators import (
    restore_generators,
    snapshot_generators,
)
from vit_patch_env.experiments.checkpoints.interval import CheckpointSchedule, parse_interval
from vit_patch_env.experiments.checkpoints.recorder import TransitionRecorder
from vit_patch_env.experiments.checkpoints.snapshot import restore, snapshot

LONG_ROLLOUT_SECONDS = 0.5
"""Where rollouts take at least this long, checkpoints are saved within them, else between them."""


class RunCheckpoint(BaseCallback):
    """Saves agent, environments, random generators and callbacks regularly, and resumes from them.

    Works with any Stable-Baselines3 algorithm and those of this package, on environments in this
    process, or in others in the wrapper `SavedLayers`. To resume, run the same script again with
    `resume=True`: create agent and environment as before and call `learn` with the same number of
    steps. On the same machine and device, with the same number of threads, the run continues
    exactly as if it had not been interrupted.

    A checkpoint holds the agent at the start of its rollout, the transitions since then, and the
    environments as they are now. To resume, the transitions are replayed to the agent.

    Args:
        folder: of the checkpoints.
        every: time between them in steps (`"500"`) or minutes or seconds (`"5min"`, `"30s"`);
            `"never"` to save only after `stop`.
        checkpoints_kept: how many of the newest checkpoints to keep, at least 1.
        callback: another callback, such as a `TrainingMonitor`, or a list of them. Its state is
            saved too, and it is not called for replayed transitions.
        extra: further objects to save, by name; each has `state_dict` and `load_state_dict`.
        run_config: the run's configuration as plain data. Checkpoints of another one are refused.
        former_configs: of the run before it was extended, the latest last; checkpoints of these
            are taken too. The names of what differs are those of the environment's arguments.
        resume: resume from the newest intact checkpoint, if there is one. If False, the folder
            must not contain checkpoints.

    Attributes:
        resumed_steps: steps taken by the checkpoint that this run resumed from; None if none.
        extended_from: one of `former_configs`, if that checkpoint is of the run before it was
            extended.
        saved_steps: steps taken by the newest checkpoint; 0 if there is none.
        stopped: whether `stop` ended the run.
        save_seconds: time spent on saving checkpoints.
        snapshot_seconds: time spent on snapshots of the agent at the start of rollouts.
        n_written: number of checkpoints written.
        n_failed: number of checkpoints that could not be written.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every: str = "5min",
        checkpoints_kept: int = 3,
        callback: BaseCallback | list[BaseCallback] | None = None,
        extra: Mapping[str, Any] | None = None,
        run_config: Any = None,
        former_configs: Sequence[dict[str, Any]] = (),
        resume: bool = False,
    ) -> None:
        super().__init__()
        self.folder = CheckpointFolder(Path(folder), checkpoints_kept)
        self.schedule = CheckpointSchedule(parse_interval(every, "every"))
        if isinstance(callback, list):
            callback = CallbackList(callback)
        self.callback = callback
        self.extra = dict(extra or {})
        self.run_config = run_config
        self.former_configs = former_configs
        self.resume = resume
        self.stopped = False
        self.save_seconds = self.snapshot_seconds = 0.0
        self.n_written = self.n_failed = 0
        self.resumed_steps: int | None = None
        self.extended_from: dict[str, Any] | None = None
        self.saved_steps = 0
        self._continuable_steps = 0  # of the newest checkpoint that is not one of the run's end
        self._prepared = self._stop_requested = self._ended = False
        self._save_pending = False  # until the agent's snapshot at the next rollout's start
        self._rollout_start: dict[str, Any] | None = None
        self._to_restore: dict[str, Any] | None = None

    @property
    def restoring(self) -> bool:
        """Whether a checkpoint has been read and is not completely restored yet."""
        return self._to_restore is not None

    def prepare(self) -> None:
        """Check the folder and, if resuming, read the newest checkpoint and remove later ones.

        Sets `resumed_steps` and `saved_steps`. Called when training starts, unless it was called
        before; further calls do nothing.

        Raises:
            ValueError: if the folder contains checkpoints and `resume` is False; if `resume` is
                True and no checkpoint is intact, or the newest is of another run or version.
        """
        if self._prepared:
            return
        if self.resume:
            self._to_restore = self._load()
            self.folder.remove_after(self.saved_steps)
        elif self.folder.files:
            raise InputError(
                f"folder must not contain checkpoints, or resume must be True, "
                f"got {self.folder.path}"
            )
        self._prepared = True

    def stop(self) -> None:
        """Save after the current step and end the run. May be called by a signal handler."""
        self._stop_requested = True

    def _load(self) -> dict[str, Any] | None:
        state = self.folder.load_newest(lambda state: not self._is_end_of_former(state))
        if state is None:
            return None
        former = state["run_config"] if self._is_of_former(state) else None
        config = self.run_config if former is None else former
        check_checkpoint(state, config, self._source)
        if former is not None:
            self.extended_from = former
            with self._naming_the_checkpoint():
                state = as_of(state, self.run_config)
        self.resumed_steps = self.saved_steps = int(state["n_steps"])
        self._continuable_steps = self.saved_steps - bool(state["ended"])
        return cast("dict[str, Any]", state)

    def _is_of_former(self, state: Any) -> bool:
        """Whether a checkpoint is of the run before it was extended."""
        if not isinstance(state, dict) or "run_config" not in state:
            return False
        return any(is_same(state["run_config"], config) for config in self.former_configs)

    def _is_end_of_former(self, state: Any) -> bool:
        """Whether it is of the end of that run, which is none of the longer one's."""
        return self._is_of_former(state) and bool(state.get("ended"))

    def keep_one(self) -> None:
        """Remove all checkpoints of a run that has ended but one, with which it can be extended."""
        self.folder.remove_partial()
        self.folder.remove_after(self._continuable_steps)
        self.folder.keep(1)
        self.folder.remove_if_empty()

    def _init_callback(self) -> None:
        self.prepare()
        if self.callback is not None:
            self.callback.init_callback(self.model)

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        """Pass the algorithm's local variables on to the other callback."""
        if self.callback is not None:
            self.callback.update_locals(locals_)

    def _on_training_start(self) -> None:
        assert self.model.env is not None
        if not isinstance(self.model.env, TransitionRecorder):
            list(env_layers(self.model.env))  # raises for environments that cannot be saved
            self.model.env = TransitionRecorder(self.model.env)
        self.recorder = self.model.env
        if self.callback is not None:
            self.callback.on_training_start(self.locals, self.globals)
        self.schedule.restart()
        self._rollout_began = -float("inf")
        # Off-policy algorithms also read VecNormalize's original observations and rewards, which
        # are not part of a transition and cannot be replayed.
        self._can_save_within_rollout = not (
            isinstance(self.model, OffPolicyAlgorithm) and self.model.get_vec_normalize_env()
        )

    def _on_rollout_start(self) -> None:
        if self.callback is not None:
            self.callback.on_rollout_start()
        now = time.monotonic()
        last_seconds, self._rollout_began = now - self._rollout_began, now
        if self._to_restore is not None:
            self._restore_agent(self._to_restore)
        self._rollout_start = None
        self.recorder.clear()
        is_long = last_seconds >= LONG_ROLLOUT_SECONDS and self._can_save_within_rollout
        if self._save_pending or is_long:
            began = time.perf_counter()
            self._rollout_start = {
                "agent": snapshot(self.model),
                "generators": snapshot_generators(),
                "n_calls": self.n_calls,
            }
            seconds = time.perf_counter() - began
            self.snapshot_seconds += seconds
            self._exclude_time(seconds)
        self.recorder.recording = self._rollout_start is not None
        if self._save_pending:
            self._save()

    def _on_step(self) -> bool:
        if self._to_restore is not None:
            if not self.recorder.n_to_replay:
                self._restore_environments(self._to_restore)
            return not self._ended
        if self.stopped:
            return False
        self._ended = self.callback is not None and not self.callback.on_step()
        if self._ended or self._stop_requested or self.schedule.is_due(self.n_calls):
            self._save_pending = True
            if self._rollout_start is not None:
                self._save()
        return not (self._ended or self.stopped)

    def _on_rollout_end(self) -> None:
        if self.callback is not None:
            self.callback.on_rollout_end()

    def _on_training_end(self) -> None:
        if self.callback is not None:
            self.callback.on_training_end()
        self.model.env = self.recorder.venv

    def _save(self) -> None:
        assert self._rollout_start is not None
        self._save_pending = False
        self.stopped = self._stop_requested and not self._ended
        began = time.perf_counter()
        state = {
            "run_config": self.run_config,
            "n_steps": self.num_timesteps,
            **self._rollout_start,
            "transitions": snapshot(self.recorder.transitions),
            "environments": [snapshot(layer) for layer in env_layers(self.recorder.venv)],
            "callback": snapshot(self.callback),
            "extra": {name: snapshot(thing.state_dict()) for name, thing in self.extra.items()},
            "ended": self._ended,
        }
        try:
            self.folder.save(self.num_timesteps, state, more=int(self._ended))
        except OSError as error:
            self.n_failed += 1
            retry = self.schedule.retry()
            warnings.warn(
                f"no checkpoint could be written at step {self.num_timesteps}: {error}; the last "
                f"one is kept, and the next is tried in {retry:.0f} s",
                stacklevel=2,
            )
        else:
            self.n_written += 1
            self.saved_steps = self.num_timesteps
            if not self._ended:
                self._continuable_steps = self.saved_steps
            self.schedule.restart()
        seconds = time.perf_counter() - began
        self.save_seconds += seconds
        self._exclude_time(seconds)

    def _exclude_time(self, seconds: float) -> None:
        """Exclude time from the environments' measured training time."""
        if self.recorder.has_attr("exclude_time"):
            self.recorder.env_method("exclude_time", seconds)

    @contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Name the checkpoint in what an algorithm raises while it is restored within the block."""
        try:
            yield
        except (InputError, MemoryError):
            raise
        except Exception as error:  # it raises anything for transitions of other shapes, say
            if not self.restoring:
                raise
            raise self.restoring_error(error) from error

    @property
    def _source(self) -> Path:
        """What was restored from, for messages."""
        return self.folder.loaded or self.folder.path

    @contextmanager
    def _naming_the_checkpoint(self) -> Iterator[None]:
        """Raise what a state of the wrong types causes within the block as one line of the file."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # libraries raise anything for others' states
            raise self.restoring_error(error) from error

    def restoring_error(self, error: Exception) -> InputError:
        """The error for a checkpoint that cannot be restored, in one line."""
        reason = str(error).split("\n")[0] or type(error).__name__
        return InputError(f"expected a run's checkpoint in {self._source}, got: {reason}")

    def _restore_agent(self, state: dict[str, Any]) -> None:
        """Restore the agent to the start of its rollout, and replay the transitions since then."""
        with self._naming_the_checkpoint():
            restore(self.model, state["agent"])
            restore_generators(state["generators"])
            self.n_calls = state["n_calls"]
            transitions = restore(None, state["transitions"])
            self.recorder.replay(transitions)
        # The steps per second that the algorithm logs are those of this process.
        self.model._num_timesteps_at_start = self.model.num_timesteps
        if not transitions:
            self._restore_environments(state)

    def _restore_environments(self, state: dict[str, Any]) -> None:
        """Restore environments, callbacks and extra objects once all transitions are replayed."""
        layers = list(env_layers(self.recorder.venv))
        with self._naming_the_checkpoint():
            for layer, layer_state in zip(layers, state["environments"], strict=True):
                restore(layer, layer_state)
            restore(self.callback, state["callback"])
            for name, thing in self.extra.items():
                thing.load_state_dict(restore(None, state["extra"][name]))
        self._ended = state["ended"]
        self._to_restore = None
        self.schedule.restart()
