"""Training of a study's trials, one after the other, wherever the study is."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from vit_patch_env.data.splits import ImageData
from vit_patch_env.data.texts import TextData
from vit_patch_env.experiments.options.commands import TrainOptions, TuneOptions
from vit_patch_env.experiments.tune.space import with_values
from vit_patch_env.experiments.tune.trial_run import train_and_validate
from vit_patch_env.system.shown import escaped_line

State = Literal["done", "pruned", "failed", "interrupted", "running"]
"""Of a trial. An interrupted one does not count: another takes its place."""


class StudyFileError(OSError):
    """A study that cannot be read or written."""


class OpenTrial(Protocol):
    """A trial that is trained."""

    number: int
    values: Any

    def report(self, accuracy: float, step: int) -> bool:
        """Report the accuracy at a step; whether the trial should end."""

    def finish(
        self,
        state: State,
        *,
        accuracy: float | None = None,
        n_selected: float | None = None,
        note: str = "",
    ) -> None:
        """Write how the trial ended."""


class TrialSource(Protocol):
    """A study, here or elsewhere."""

    def next(self) -> OpenTrial | None:
        """The next trial; None if all are done or under way."""

    def leave(self) -> None:
        """Called after the last one."""


class TrialEnd(NamedTuple):
    """How a trial has ended.

    Attributes:
        text: for the user; empty for a trial that a signal has ended.
        is_done: whether it was trained to its end.
        is_failure: whether it failed.
    """

    text: str
    is_done: bool = False
    is_failure: bool = False


class _PrunedError(Exception):
    """A trial that the pruner ends."""


class _StoppedError(Exception):
    """A trial that a signal ends."""


class Trials:
    """The trials of a study that this process trains.

    Args:
        options: of the study.
        train_options: of its runs, with the values as given.
        data: the images.
        study: which trials there are.
        is_stopped: whether a signal was received.
        on_end: called when a trial has ended.
    """

    def __init__(
        self,
        options: TuneOptions,
        train_options: TrainOptions,
        data: ImageData | TextData,
        study: TrialSource,
        *,
        is_stopped: Callable[[], bool],
        on_end: Callable[[TrialEnd], None],
    ) -> None:
        self._options = options
        self._train_options = train_options
        self._data = data
        self._study = study
        self._is_stopped = is_stopped
        self._on_end = on_end

    def train(self) -> None:
        """Train trials until none is left or a signal is received."""
        try:
            while not self._is_stopped():
                trial = self._study.next()
                if trial is None:
                    return
                self._on_end(self._train(trial))
        finally:
            self._study.leave()

    def _train(self, trial: OpenTrial) -> TrialEnd:
        """Train a trial, and write how it ended; what fails is a failed trial."""
        name = f"trial {trial.number} ({trial.number + 1}/{self._options.trials})"
        try:
            accuracy, n_selected = self._mean_outcome(trial)
        except _StoppedError:
            trial.finish("interrupted")
            return TrialEnd("")
        except _PrunedError as pruned:
            trial.finish("pruned")
            return TrialEnd(f"{name}: pruned {pruned}")
        except StudyFileError:
            raise
        except Exception as error:
            return self._failed(trial, name, error)
        trial.finish("done", accuracy=accuracy, n_selected=n_selected)
        text = f"{name}: val accuracy {accuracy:.2%}, {n_selected:.1f} patches"
        return TrialEnd(text, is_done=True)

    @staticmethod
    def _failed(trial: OpenTrial, name: str, error: Exception) -> TrialEnd:
        note = escaped_line(" ".join((str(error) or type(error).__name__).split()))
        trial.finish("failed", note=note)
        return TrialEnd(f"{name} failed: {note}", is_failure=True)

    def _mean_outcome(self, trial: OpenTrial) -> tuple[float, float]:
        """Mean accuracy and number of patches of a trial's runs.

        The pruner compares the first run with others at every point, and the mean of the finished
        runs after each of them.
        """
        n_points, n_runs = math.ceil(self._options.env.epochs), len(self._options.seeds)
        options = with_values(self._train_options, trial.values)
        accuracies: list[float] = []
        counts: list[float] = []

        def end_step() -> None:
            if self._is_stopped():
                raise _StoppedError

        def reach(point: int, accuracy: float) -> None:
            is_last = point == n_points and n_runs == 1
            if not accuracies and trial.report(accuracy, point) and not is_last:
                raise _PrunedError(f"after {point} of {n_points} epochs' budget at {accuracy:.2%}")

        for n_done, seed in enumerate(self._options.seeds, start=1):
            outcome = train_and_validate(
                replace(options, seed=seed), self._data, on_step=end_step, on_point=reach
            )
            accuracies.append(outcome.accuracy)
            counts.append(outcome.n_selected)
            mean = float(np.mean(accuracies))
            if 1 < n_done < n_runs and trial.report(mean, n_points + n_done):
                raise _PrunedError(f"after {n_done} of {n_runs} runs at {mean:.2%}")
        return float(np.mean(accuracies)), float(np.mean(counts))
