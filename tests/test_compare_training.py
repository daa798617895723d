"""Runs of several comparisons that are trained together."""

import multiprocessing
import os
import signal

from rich.console import Console

from vit_patch_env.checks import InputError
from vit_patch_env.experiments.compare.entries import Entry
from vit_patch_env.experiments.compare.methods import METHODS
from vit_patch_env.experiments.compare.training import Training
from vit_patch_env.experiments.process.executor import LocalExecutor
from vit_patch_env.experiments.run_folder.folder import RunFolder


class Ended:
    """A worker that has done its work."""

    exitcode = 0
    problem = ""

    def __init__(self):
        self.sentinel, other = multiprocessing.Pipe(duplex=False)
        other.close()

    def send_signal(self, number):
        pass

    def join(self):
        pass


class Runs:
    """Runs that end at once; what happens to them is noted."""

    def __init__(self, title, n_runs, noted, folder, first_needed=False):
        self.title, self.noted = title, noted
        self.entries = [
            Entry(f"run{place}", METHODS["simple_vit"], place, RunFolder(folder / f"{place}"))
            for place in range(n_runs)
        ]
        if first_needed:
            for entry in self.entries[1:]:
                entry.followed = self.entries[0]

    def ready(self):
        for entry in self.entries:
            if entry.state == "waiting" and all(one.state == "done" for one in entry.needed):
                yield entry

    def start(self, entry, executor):
        entry.state = "running"
        self.noted.append(f"start {self.title}{entry.seed}")
        return Ended()

    def finish(self, entry, exitcode, problem):
        assert exitcode == 0
        entry.state, entry.note = "done", "50.0%"
        self.noted.append(f"end {self.title}{entry.seed}")

    def fail(self, entry, note):
        self.noted.append(f"fail {self.title}{entry.seed}: {note}")
        for one in (entry, *(one for one in self.entries if one.followed is entry)):
            one.state, one.note = "failed", note

    def close(self):
        self.noted.append(f"close {self.title}")


def trained(tmp_path, n_jobs, *sets, kind=Runs):
    """What happens to sets of runs that are trained, and what is printed."""
    noted = []
    given = [kind(title, *rest[:1], noted, tmp_path / title, *rest[1:]) for title, *rest in sets]
    with (tmp_path / "printed").open("w") as file:
        received = Training(LocalExecutor(n_jobs), Console(file=file, width=120)).train(given)
    return noted, received, (tmp_path / "printed").read_text()


def test_sets_share_the_jobs(tmp_path):
    noted, received, printed = trained(tmp_path, 2, ("a", 1), ("b", 2), ("c", 1))
    assert noted == [
        "start a0", "start b0", "end a0", "end b0", "start b1", "start c0", "close a",
        "end b1", "end c0", "close b", "close c",
    ]  # fmt: skip
    assert received == []
    assert "a: run0__0 done after 0 s: 50.0% on all test images. 1 done\n" in printed


def test_with_one_job_they_come_one_after_the_other(tmp_path):
    noted, _, _ = trained(tmp_path, 1, ("a", 2), ("b", 1))
    assert noted == [
        "start a0", "end a0", "start a1", "end a1", "start b0", "close a", "end b0", "close b",
    ]  # fmt: skip


def test_runs_that_wait_for_another_leave_their_job_to_the_next_set(tmp_path):
    noted, _, _ = trained(tmp_path, 2, ("a", 3, True), ("b", 1))
    assert noted == [
        "start a0", "start b0", "end a0", "end b0", "start a1", "start a2", "close b",
        "end a1", "end a2", "close a",
    ]  # fmt: skip


def test_sets_without_anything_to_train_are_closed(tmp_path):
    assert trained(tmp_path, 2, ("a", 0), ("b", 1))[0] == [
        "start b0", "close a", "end b0", "close b",
    ]  # fmt: skip
    assert trained(tmp_path, 2)[0] == []


def test_a_run_that_cannot_start_or_be_read_fails_and_the_others_go_on(tmp_path):
    class Damaged(Runs):
        def start(self, entry, executor):
            if (self.title, entry.seed) == ("a", 0):
                raise InputError("no file")
            return super().start(entry, executor)

        def finish(self, entry, exitcode, problem):
            if (self.title, entry.seed) == ("b", 0):
                raise InputError("no result")
            super().finish(entry, exitcode, problem)

    noted, _, printed = trained(tmp_path, 1, ("a", 2, True), ("b", 2), kind=Damaged)
    assert noted == [
        "fail a0: no file", "start b0", "close a", "fail b0: no result", "start b1", "end b1",
        "close b",
    ]  # fmt: skip
    assert "b: run0__0 failed after 0 s: no result. 1 failed, 1 waiting\n" in printed


def test_nothing_is_started_after_a_signal(tmp_path):
    class Stopping(Runs):
        def start(self, entry, executor):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().start(entry, executor)

    noted, received, _ = trained(tmp_path, 1, ("a", 2), ("b", 1), kind=Stopping)
    assert received == [signal.SIGTERM]
    assert noted == ["start a0", "close a", "close b"]
