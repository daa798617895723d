"""A study whose trials are trained by the nodes of a Ray cluster.

The study is read and written by one process, beside the command, which the nodes ask.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from vit_patch_env.checks import InputError
from vit_patch_env.experiments.options.commands import TrainOptions, TuneOptions
from vit_patch_env.experiments.runs.environment import make_env
from vit_patch_env.experiments.tune.trials import State, StudyFileError, TrialEnd, Trials

if TYPE_CHECKING:  # needs Optuna, an optional dependency
    from vit_patch_env.experiments.tune.study import TuningStudy


class StudyServer:
    """A study that others ask, each for its own trials: an actor of Ray.

    Args:
        open_study: opens it; called for each of those that ask.
        n_slots: how many ask.
    """

    def __init__(self, open_study: Callable[[], "TuningStudy"], n_slots: int) -> None:
        self._studies = [open_study() for _ in range(n_slots)]
        self._open: dict[int, Any] = {}
        self._ends: list[TrialEnd] = []

    def next(self, slot: int) -> tuple[int, Mapping[str, Any]] | None:
        """Number and values of the next trial; None if all are done or under way.

        A trial that this one was training has been lost with its node, and counts as killed.
        """
        self._open.pop(slot, None)
        trial = self._studies[slot].next()
        if trial is None:
            return None
        self._open[slot] = trial
        return trial.number, trial.values

    def report(self, slot: int, accuracy: float, step: int) -> bool:
        """Report the accuracy at a step; whether the trial should end."""
        should_end: bool = self._open[slot].report(accuracy, step)
        return should_end

    def finish(self, slot: int, state: State, **values: Any) -> None:
        """Write how the trial of a slot has ended."""
        self._open.pop(slot).finish(state, **values)

    def tell(self, end: TrialEnd) -> None:
        """Keep for the command how a trial has ended."""
        self._ends.append(end)

    def ends(self) -> list[TrialEnd]:
        """How trials have ended since the last call."""
        ends, self._ends = self._ends, []
        return ends

    def leave(self) -> None:
        """End the trials that are under way: their nodes have stopped."""
        for trial in self._open.values():
            trial.finish("interrupted")
        self._open.clear()
        for study in self._studies:
            study.leave()


def asked(server: Any, name: str, *args: Any, **values: Any) -> Any:
    """The result of a method of a `StudyServer`.

    Args:
        server: Ray's handle of it.
        name: of the method.
        args: of the method.
        values: of the method.

    Raises:
        StudyFileError: if the study cannot be read or written.
    """
    import ray

    try:
        return ray.get(getattr(server, name).remote(*args, **values))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError | InputError):
            raise StudyFileError(str(error.cause)) from error
        raise
    except ray.exceptions.RayError as error:
        raise StudyFileError("expected the study's process, which has ended") from error


class _RemoteTrial:
    """A trial of a study on another node."""

    def __init__(self, study: "_RemoteStudy", number: int, values: Mapping[str, Any]) -> None:
        self._study = study
        self.number = number
        self.values = values

    def report(self, accuracy: float, step: int) -> bool:
        """Report the accuracy at a step; whether the trial should end."""
        return bool(self._study.ask("report", accuracy, step))

    def finish(self, state: State, **values: Any) -> None:
        """Write how the trial ended."""
        self._study.ask("finish", state, **values)


class _RemoteStudy:
    """The study, for the trials of one task.

    Args:
        server: Ray's handle of a `StudyServer`.
        slot: of the task.
    """

    def __init__(self, server: Any, slot: int) -> None:
        self._server = server
        self._slot = slot

    def next(self) -> _RemoteTrial | None:
        """The next trial; None if all are done or under way."""
        given = self.ask("next")
        return None if given is None else _RemoteTrial(self, *given)

    def leave(self) -> None:
        """Nothing: the command ends the study."""

    def ask(self, name: str, *args: Any, **values: Any) -> Any:
        """The result of a method of the server."""
        return asked(self._server, name, self._slot, *args, **values)


def _tell(server: Any, end: TrialEnd) -> None:
    asked(server, "tell", end)


def train_trials(
    options: TuneOptions,
    train_options: TrainOptions,
    n_threads: int,
    server: Any,
    slot: int,
) -> int:
    """Train trials of a study on this node, until none is left; the exit status, 0.

    Args:
        options: of the study.
        train_options: of its runs.
        n_threads: of torch.
        server: Ray's handle of a `StudyServer`.
        slot: of this task.

    Raises:
        InputError: if this node does not have the images.
        StudyFileError: if the study cannot be read or written.
    """
    torch.set_num_threads(n_threads)
    data = make_env(train_options.env).data
    Trials(
        options,
        train_options,
        data,
        _RemoteStudy(server, slot),
        is_stopped=lambda: False,  # Ray interrupts the task
        on_end=partial(_tell, server),
    ).train()
    return 0
