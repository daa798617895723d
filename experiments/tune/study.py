"""A study of Optuna in a folder, which several processes work on and which is resumed.

Which trial is next is decided under the folder's lock. Every process holds the lock of its worker
number for as long as it lives, so that the trials of a process that was killed are recognised at
once, and done again.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from vit_patch_env.experiments.options.commands import PrunerName
from vit_patch_env.experiments.run_folder.folder import lock_folder
from vit_patch_env.experiments.tune.space import Dimension
from vit_patch_env.experiments.tune.trials import State, StudyFileError
from vit_patch_env.reading import open_regular

DATABASE = "study.db"
WORKERS = "workers"
NAME = "vit-patch"
STARTED, ENDED = "started", "ended"
"""Attributes of Optuna's trials, in which the values are those of a `TrialRecord`."""

DATABASE_BYTES = 10**9
"""Of a study's database, which has some kilobytes per trial."""

LOCK_SECONDS = 60.0
"""How long to wait for the study's lock, which is held for moments."""

N_ATTEMPTS = 2
"""How often a trial is started whose process was killed, as it may be what kills it."""

_OPTUNA_STATES: dict[State, TrialState] = {
    "done": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "interrupted": TrialState.FAIL,
}


class TrialRecord(NamedTuple):
    """A trial as the study's database has it.

    Attributes:
        number: its place in the study, from 0; the first has the values of the options.
        state: of it.
        accuracy: mean on the validation images at the end of the budget; None if it was not done.
        values: that were tried, by name.
        seconds: that it took; None while it runs.
        n_selected: patches per step, on average; None if it was not done.
        note: why it failed.
    """

    number: int
    state: State
    accuracy: float | None
    values: dict[str, Any]
    seconds: float | None
    n_selected: float | None
    note: str


class Attempt:
    """A trial that this process trains.

    Args:
        trial: of Optuna.
        number: its place in the study.
        values: to try, by name.

    Attributes:
        number: its place in the study.
        values: to try, by name.
    """

    def __init__(self, trial: Trial, number: int, values: Mapping[str, Any]) -> None:
        self._trial = trial
        self.number = number
        self.values = values
        self._started = time.time()

    def report(self, accuracy: float, step: int) -> bool:
        """Report the accuracy at a step; whether the trial should end.

        The first trial is never pruned: it is what the others are compared with.
        """
        with _storage_errors():
            self._trial.report(accuracy, step)
            pruned = self._trial.should_prune()  # halving compares only with trials that it asked
            return self.number > 0 and pruned

    def finish(
        self,
        state: State,
        *,
        accuracy: float | None = None,
        n_selected: float | None = None,
        note: str = "",
    ) -> None:
        """Write how the trial ended."""
        ended = {
            "state": state,
            "seconds": time.time() - self._started,
            "n_selected": n_selected,
            "note": note,
        }
        with _storage_errors():
            self._trial.set_user_attr(ENDED, ended)
            self._trial.study.tell(self._trial, accuracy, state=_OPTUNA_STATES[state])


class TuningStudy:
    """A study in a folder, created if there is none.

    Args:
        path: of the folder, which this process has not locked.
        dimensions: what is searched.
        n_trials: of the study.
        seed: of the values that are tried.
        pruner: which trials end early.
        n_points: at which a run is compared with others.

    Raises:
        ValueError: if another process keeps the folder locked.
        StudyFileError: if its database cannot be read.
    """

    def __init__(
        self,
        path: Path,
        dimensions: Sequence[Dimension],
        *,
        n_trials: int,
        seed: int,
        pruner: PrunerName,
        n_points: int,
    ) -> None:
        self.path = path
        self.dimensions = dimensions
        self.n_trials = n_trials
        self.seed = seed
        self._worker = -1
        self._worker_lock: FileLock | None = None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self.locked(), _storage_errors(path / DATABASE):
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{DATABASE}",
                engine_kwargs={"creator": _connection_to(path / DATABASE)},
            )
            self._study = optuna.create_study(
                study_name=NAME,
                storage=storage,
                direction="maximize",
                load_if_exists=True,
                pruner=_pruner(pruner, n_points),
            )
            directions = self._study.directions
        if directions != [StudyDirection.MAXIMIZE]:  # with that name, by another program
            got = ", ".join(one.name.lower() for one in directions)
            raise StudyFileError(
                f"expected a study's database with the direction maximize in {path / DATABASE}, "
                f"got: {got}"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock within the block."""
        lock = lock_folder(self.path, "out", LOCK_SECONDS)
        try:
            yield
        finally:
            lock.release()

    def next(self) -> Attempt | None:
        """The next trial, to be trained by this process; None if all are done or under way."""
        with self.locked(), _storage_errors():
            self._join()
            self._end_abandoned()
            taken = {one.number for one in self.records() if one.state != "interrupted"}
            number = next(number for number in count() if number not in taken)
            return self._ask(number) if number < self.n_trials else None

    def leave(self) -> None:
        """Release this process's worker number."""
        if self._worker_lock is not None:
            self._worker_lock.release()
            self._worker_lock = None

    def records(self) -> list[TrialRecord]:
        """All trials that have started, in the order in which they did."""
        with _storage_errors():
            return list(_records(self._trials()))

    def importance(self) -> dict[str, float]:
        """The share of each value in the variance of the accuracy; empty if that is unknown.

        fANOVA (Hutter et al. 2014) over the trials that are done and have all values.
        """
        complete = [
            one
            for one in self._trials()
            if one.state == TrialState.COMPLETE and len(one.params) == len(self.dimensions)
        ]
        if len({one.value for one in complete}) < 4:
            return {}
        copy = optuna.create_study(direction="maximize")
        copy.add_trials(complete)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.seed)
        return optuna.importance.get_param_importances(copy, evaluator=evaluator)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _ask(self, number: int) -> Attempt:
        """Start the trial of a number, under the folder's lock.

        Its generator depends on the number alone, so that a study that was interrupted between
        trials continues as if it had not been.
        """
        sequence = np.random.SeedSequence([self.seed, number])
        sampler_seed = int(sequence.generate_state(1)[0])
        self._study.sampler = optuna.samplers.TPESampler(seed=sampler_seed)
        if number == 0 and not self._study.get_trials(states=(TrialState.WAITING,)):
            self._study.enqueue_trial(
                {one.name: one.start for one in self.dimensions if one.has_start}
            )
        trial = self._study.ask()
        values = {one.name: _suggest(trial, one, first=number == 0) for one in self.dimensions}
        started = {"worker": self._worker, "number": number, "values": values}
        trial.set_user_attr(STARTED, started)
        return Attempt(trial, number, values)

    def _join(self) -> None:
        """Take the lowest free worker number, if this process has none yet."""
        if self._worker_lock is None:
            (self.path / WORKERS).mkdir(exist_ok=True)
            for number in count():
                lock = FileLock(self._worker_path(number))
                if _acquired(lock):
                    self._worker, self._worker_lock = number, lock
                    return

    def _end_abandoned(self) -> None:
        """End the trials of processes that were killed, under the folder's lock."""
        for trial in self._trials():
            if trial.state != TrialState.RUNNING:
                continue
            worker = trial.user_attrs.get(STARTED, {}).get("worker")
            # This process has no trial under way: one of its number was another's.
            if worker is not None and worker != self._worker:
                lock = FileLock(self._worker_path(worker))
                if not _acquired(lock):
                    continue
                lock.release()
            self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _worker_path(self, number: int) -> Path:
        return self.path / WORKERS / f"{number}.lock"


def _connection_to(path: Path) -> Callable[[], sqlite3.Connection]:
    """What connects to a database. In a URL, some characters of its path would be read as more.

    Raises:
        InputError: if something else is in its place.
    """
    if path.exists():
        open_regular(path, DATABASE_BYTES, "a study's database").close()
    return partial(sqlite3.connect, path.resolve(), timeout=LOCK_SECONDS, check_same_thread=False)


def _records(trials: Sequence[FrozenTrial]) -> Iterator[TrialRecord]:
    """The trials that have started."""
    n_killed: Counter[int] = Counter()
    for trial in trials:
        started = trial.user_attrs.get(STARTED)
        if started is None:  # killed before it was written
            continue
        ended = trial.user_attrs.get(ENDED, {})
        number, note = started["number"], ended.get("note", "")
        state: State = ended.get("state", "running")
        if trial.state == TrialState.RUNNING:
            state = "running"
        elif _OPTUNA_STATES.get(state) != trial.state:  # killed, at the latest while it ended
            n_killed[number] += 1
            state = "interrupted" if n_killed[number] < N_ATTEMPTS else "failed"
            note = "its process was killed"
        yield TrialRecord(
            number=number,
            state=state,
            accuracy=trial.value if state == "done" else None,
            values=started["values"],
            seconds=ended.get("seconds"),
            n_selected=ended.get("n_selected"),
            note=note,
        )


def _suggest(trial: Trial, dimension: Dimension, *, first: bool) -> Any:
    """The value to try: of the first trial, that of the options."""
    name, low, high, log = dimension.name, dimension.low, dimension.high, dimension.log
    if first and not dimension.has_start:
        return dimension.start
    if dimension.choices:
        return trial.suggest_categorical(name, dimension.choices)
    if dimension.integer:
        return trial.suggest_int(name, int(low), int(high), log=log)
    value = trial.suggest_float(name, low, high, log=log)
    # Three digits are enough, and can be typed.
    return dimension.start if first else min(max(float(f"{value:.3g}"), low), high)


def _pruner(name: PrunerName, n_points: int) -> optuna.pruners.BasePruner:
    """The pruner of that name, for runs that are compared at so many points."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1 + n_points // 5)
    if name == "halving":
        return _HalvingPruner(min_resource=max(n_points // 9, 1), reduction_factor=3)
    return optuna.pruners.NopPruner()


class _HalvingPruner(optuna.pruners.SuccessiveHalvingPruner):
    """Compares with trials that count alone, so that those done again are not compared twice.

    Optuna's compares with all that reached a point, also failed ones; an interrupted trial is one.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether a trial should end."""
        counting: Any = _CountingTrials(study)
        return super().prune(counting, trial)


class _CountingTrials:
    """A study without its failed trials, which are also the interrupted ones.

    Args:
        study: with all trials.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def get_trials(self, deepcopy: bool = True) -> list[FrozenTrial]:
        """The trials that are done, pruned or under way."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        return self._study.get_trials(deepcopy, states)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


@contextmanager
def _storage_errors(path: Path | None = None) -> Iterator[None]:
    """Raise errors of the database as a `StudyFileError` in one line.

    Args:
        path: of a database that is opened here, when it may be another file.
    """
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        reason = str(error.__cause__ or error).split("\n")[0]
        raise StudyFileError(f"expected a study's database{_in(path)}, got: {reason}") from error
    except RuntimeError as error:  # a database of another version of Optuna
        if path is None:
            raise
        reason = str(error).split("\n")[0]
        raise StudyFileError(f"expected a study's database{_in(path)}, got: {reason}") from error


def _in(path: Path | None) -> str:
    return "" if path is None else f" in {path}"
