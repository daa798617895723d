"""Trains the runs of comparisons, so many at a time."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from rich.console import Console

from vit_patch_env.checks import InputError
from vit_patch_env.experiments.compare.display import CompareDisplay
from vit_patch_env.experiments.compare.entries import Entry
from vit_patch_env.experiments.process.executor import Executor
from vit_patch_env.experiments.process.messages import error_message, say
from vit_patch_env.experiments.process.signals import stopping
from vit_patch_env.experiments.process.workers import Job, kill_workers, stop_workers


class RunSet(Protocol):
    """Runs that belong together: those of a comparison.

    Attributes:
        title: what distinguishes it from others; empty if there is no other.
        entries: its runs.
    """

    title: str
    entries: list[Entry]

    def ready(self) -> Iterator[Entry]:
        """The runs that can start."""

    def start(self, entry: Entry, executor: Executor) -> Job:
        """Start a run."""

    def finish(self, entry: Entry, exitcode: int, problem: str) -> None:
        """Note how a run has ended, or why it could not be trained, if that is not empty."""

    def fail(self, entry: Entry, note: str) -> None:
        """Note that a run cannot be trained, nor those that need it."""

    def close(self) -> None:
        """Called when nothing more is started."""


class _Running(NamedTuple):
    """A run that is trained."""

    run_set: RunSet
    entry: Entry
    job: Job


class Training:
    """Trains the runs of several sets, those of a set after those of the sets before it.

    Args:
        executor: of the runs, of whichever set.
        console: where progress is shown.
    """

    def __init__(self, executor: Executor, console: Console) -> None:
        self._executor = executor
        self._display = CompareDisplay(executor.n_jobs, console)
        self._sets: list[RunSet] = []
        self._running: list[_Running] = []

    def train(self, run_sets: Iterable[RunSet]) -> list[int]:
        """Train until all runs are done or a signal is received; no run outlives this call.

        A signal (SIGTERM, SIGHUP, Ctrl-C) stops the runs, each after a checkpoint; a second one
        ends them at once.

        Returns:
            The numbers of the signals.
        """
        self._sets = list(run_sets)
        try:
            with stopping(self._announce_stop, self._end_workers) as received:
                try:
                    with self._display:
                        self._train(received)
                finally:
                    stop_workers(one.job for one in self._running)
        finally:
            for run_set in self._sets:
                run_set.close()
            self._executor.close()
        return received

    def _train(self, received: list[int]) -> None:
        while not received:
            self._start()
            self._close_ended()
            if not self._running:
                break
            self._executor.wait([one.job for one in self._running], 0.5)
            if received:  # the runs may have heard it too: they have not failed
                break
            self._look()

    def _start(self) -> None:
        """Start what can start, as long as a job is free."""
        ready = ((run_set, entry) for run_set in self._sets for entry in run_set.ready())
        self._display.n_jobs = self._executor.n_jobs
        while len(self._running) < self._display.n_jobs:
            run_set, entry = next(ready, (None, None))
            if run_set is None or entry is None:
                return
            self._display.begin(run_set.title, run_set.entries)
            try:
                job = run_set.start(entry, self._executor)
            except InputError as error:
                run_set.fail(entry, error_message(error))
            else:
                self._running.append(_Running(run_set, entry, job))

    def _look(self) -> None:
        """Show the runs' progress, and note which have ended."""
        for one in list(self._running):
            one.entry.progress = one.entry.folder.progress()
            exitcode = one.job.exitcode
            if exitcode is None:
                continue
            self._running.remove(one)
            try:
                one.run_set.finish(one.entry, exitcode, one.job.problem)
            except InputError as error:
                one.run_set.fail(one.entry, error_message(error))
            self._display.show_end(one.run_set.title, one.entry)
        self._display.update()

    def _close_ended(self) -> None:
        """Close the sets of which no run is trained or waits for another."""
        for one in list(self._sets):
            if all(entry.state in ("done", "failed") for entry in one.entries):
                self._sets.remove(one)
                self._display.end(one.title, one.entries)
                one.close()

    def _announce_stop(self) -> None:
        """Called when a signal is received, which also ends the wait for the runs."""
        say("stopping the runs, each after a checkpoint; a second signal ends them at once")

    def _end_workers(self) -> None:
        """Called when a second signal is received."""
        kill_workers(one.job for one in self._running)
