"""Runs of several comparisons that are trained together."""

import multiprocessing
import os
import signal

from rich.console import Console

from vit_patch_env.experiments.compare.entries import Entry
from vit_patch_env.experiments.compare.methods import METHODS
from vit_patch_env.experiments.compare.training import Training
from vit_patch_env.experiments.run_folder.folder import RunFolder


class Ended:
    """A worker that has done its work."""

    exitcode = 0

    def __init__(self):
        self.sentinel, other = multiprocessing.Pipe(duplex=False)
        other.close()

    def send_signal(self, number):
        pass

    def join(self):
        pass


class Runs:
    """Runs that end at once; what happens to them is noted."""

    def __init__(self, title, n_runs, noted, folder, needs_first=False):
        self.title, self.noted = title, noted
        self.entries = [
            Entry(f"run{place}", METHODS["simple_vit"], place, RunFolder(folder / f"{place}"))
            for place in range(n_runs)
        ]
        if needs_first:
            for entry in self.entries[1:]:
                entry.followed = self.entries[0]

    def ready(self):
        for entry in self.entries:
            if entry.state == "waiting" and all(one.state == "done" for one in entry.needed):
                yield entry

    def start(self, entry):
        entry.state = "running"
        self.noted.append(f"start {self.title}{entry.seed}")
        return Ended()

    def finish(self, entry, exitcode):
        assert exitcode == 0
        entry.state, entry.note = "done", "50.0%"
        self.noted.append(f"end {self.title}{entry.seed}")

    def close(self):
        self.noted.append(f"close {self.title}")


def trained(tmp_path, n_jobs, *sets):
    """What happens to sets of runs that are trained, and what is printed."""
    noted = []

    def asked_for():
        for title, n_runs, needs_first in sets:
            noted.append(f"ask {title}")
            yield Runs(title, n_runs, noted, tmp_path / title, needs_first)

    with (tmp_path / "printed").open("w") as file:
        received = Training(n_jobs, Console(file=file, width=120)).train(asked_for())
    return noted, received, (tmp_path / "printed").read_text()


def test_a_set_is_asked_for_when_those_before_it_leave_a_job_free(tmp_path):
    noted, received, printed = trained(
        tmp_path, 2, ("a", 1, False), ("b", 2, False), ("c", 1, False)
    )
    assert noted == [
        "ask a", "start a0", "ask b", "start b0", "end a0", "end b0",
        "start b1", "close a", "ask c", "start c0", "end b1", "end c0", "close b", "close c",
    ]  # fmt: skip
    assert received == []
    assert "a: run0__0 done after 0 s: 50.0% on all test images. 1 done" in printed


def test_with_one_job_they_come_one_after_the_other(tmp_path):
    noted, _, _ = trained(tmp_path, 1, ("a", 2, False), ("b", 1, False))
    assert noted == [
        "ask a", "start a0", "end a0", "start a1", "end a1", "close a",
        "ask b", "start b0", "end b0", "close b",
    ]  # fmt: skip


def test_runs_that_wait_for_another_leave_their_job_to_the_next_set(tmp_path):
    noted, _, _ = trained(tmp_path, 2, ("a", 3, True), ("b", 1, False))
    assert noted[:4] == ["ask a", "start a0", "ask b", "start b0"]
    assert noted.index("start a1") > noted.index("end a0")
    assert sorted(noted[-2:]) == ["close a", "close b"]


def test_nothing_is_started_after_a_signal(tmp_path):
    class Stopping(Runs):
        def start(self, entry):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().start(entry)

    noted = []
    sets = iter([Stopping("a", 1, noted, tmp_path), Runs("b", 1, noted, tmp_path)])
    with (tmp_path / "printed").open("w") as file:
        received = Training(2, Console(file=file)).train(sets)
    assert received == [signal.SIGTERM]
    assert noted == ["start a0", "close a"]
