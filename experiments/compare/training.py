"""Trains the runs of comparisons, each in its own process, so many at a time."""

from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from typing import NamedTuple, Protocol

from rich.console import Console

from vit_patch_env.experiments.compare.display import CompareDisplay
from vit_patch_env.experiments.compare.entries import Entry
from vit_patch_env.experiments.process.messages import say
from vit_patch_env.experiments.process.signals import stopping
from vit_patch_env.experiments.process.workers import Worker, kill_workers, stop_workers


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

    def start(self, entry: Entry) -> Worker:
        """Start a run."""

    def finish(self, entry: Entry, exitcode: int) -> None:
        """Note how a run has ended."""

    def close(self) -> None:
        """Called when nothing more is started."""


class _Running(NamedTuple):
    """A run that is trained."""

    run_set: RunSet
    entry: Entry
    worker: Worker


class Training:
    """Trains the runs of several sets; a set is asked for when those before it leave a job free.

    Args:
        n_jobs: runs at a time.
        console: where progress is shown.
    """

    def __init__(self, n_jobs: int, console: Console) -> None:
        self._n_jobs = n_jobs
        self._display = CompareDisplay(n_jobs, console)
        self._open: list[RunSet] = []
        self._running: list[_Running] = []

    def train(self, run_sets: Iterable[RunSet]) -> list[int]:
        """Train until all runs are done or a signal is received; no run outlives this call.

        A signal (SIGTERM, SIGHUP, Ctrl-C) stops the runs, each after a checkpoint; a second one
        ends them at once.

        Returns:
            The numbers of the signals.
        """
        to_come = iter(run_sets)
        with stopping(self._announce_stop, self._end_workers) as received:
            try:
                with self._display:
                    while not received:
                        self._start(to_come, received)
                        if not self._running:
                            break
                        wait([one.worker.sentinel for one in self._running], timeout=0.5)
                        if received:  # the runs may have heard it too: they have not failed
                            break
                        self._look()
            finally:
                stop_workers(one.worker for one in self._running)
                for run_set in self._open:
                    run_set.close()
        return received

    def _start(self, to_come: Iterator[RunSet], received: list[int]) -> None:
        """Start what can start, as long as a job is free and no signal is received."""
        while len(self._running) < self._n_jobs and not received:
            ready = ((run_set, entry) for run_set in self._open for entry in run_set.ready())
            found = next(ready, None)
            if found is not None:
                run_set, entry = found
                self._running.append(_Running(run_set, entry, run_set.start(entry)))
                continue
            for ended in [one for one in self._open if not _is_going_on(one)]:
                self._open.remove(ended)
                self._display.close(ended.title)
                ended.close()
            another = next(to_come, None)
            if another is None:
                return
            self._open.append(another)
            self._display.open(another.title, another.entries)

    def _look(self) -> None:
        """Show the runs' progress, and note which have ended."""
        for one in list(self._running):
            one.entry.progress = one.entry.folder.progress()
            exitcode = one.worker.exitcode
            if exitcode is not None:
                self._running.remove(one)
                one.run_set.finish(one.entry, exitcode)
                self._display.show_end(one.run_set.title, one.entry)
        self._display.update()

    def _announce_stop(self) -> None:
        """Called when a signal is received, which also ends the wait for the runs."""
        say("stopping the runs, each after a checkpoint; a second signal ends them at once")

    def _end_workers(self) -> None:
        """Called when a second signal is received."""
        kill_workers(one.worker for one in self._running)


def _is_going_on(run_set: RunSet) -> bool:
    """Whether runs of a set are trained, or wait for one that is."""
    return any(entry.state in ("waiting", "running") for entry in run_set.entries)
