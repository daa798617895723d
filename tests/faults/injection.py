"""Faults in runs, which must then give the same results as uninterrupted runs."""

import os
import signal
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import TINY_OPTIONS
from tests.faults.disks import damaged, fill, small_disk
from tests.faults.runs import (
    join,
    kill_writer,
    newest_step,
    resumed_step,
    start,
    train_command,
    trajectory,
    wait_for,
)
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.system.files import load_state


@dataclass
class Outcome:
    """Counts of one kind of fault.

    Attributes:
        name: of the fault.
        n_tried: number of runs or files with the fault.
        n_passed: number of those with the expected result: usually that of an uninterrupted run.
        counts: further counts, by description.
        problems: descriptions of the failures.
    """

    name: str
    n_tried: int = 0
    n_passed: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count(self, description: str) -> None:
        """Add one to a further count."""
        self.counts[description] = self.counts.get(description, 0) + 1

    def judge(self, passed: bool, problem: str) -> None:
        """Count a run or file as one with the expected result, or describe its failure."""
        if passed:
            self.n_passed += 1
        else:
            self.problems.append(problem)


class Injector:
    """What injects faults and compares results with those of uninterrupted runs.

    Args:
        folder: of the runs.
        seed: of the random times of the faults.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(seed)

    def pause(self, low: float, high: float) -> None:
        """Wait for a random time in this range, in seconds."""
        time.sleep(float(self.rng.uniform(low, high)))


class Faults(Injector):
    """Faults in runs."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        super().__init__(folder, seed)
        self.uninterrupted_runs: dict[str, tuple[dict[str, Any], float]] = {}
        self.n_started = 0

    def uninterrupted(self, agent: str) -> tuple[dict[str, Any], float]:
        """Trajectory of an uninterrupted run, and seconds from its config.json to its end."""
        if agent not in self.uninterrupted_runs:
            run = self.folder / f"{agent}-uninterrupted"
            process = start(train_command(agent, "--out", str(run)), run.with_suffix(".log"))
            wait_for((run / "config.json").exists, process)
            began = time.monotonic()
            assert join(process) == 0, run.with_suffix(".log").read_text()
            self.uninterrupted_runs[agent] = trajectory(run), time.monotonic() - began
        return self.uninterrupted_runs[agent]

    def signal_run(self, outcome: Outcome, agent: str, number: int, while_writing: bool) -> None:
        """Send a signal to a run at a random time, resume the run, and compare.

        Args:
            outcome: to count it in.
            agent: of the run.
            number: of the signal.
            while_writing: wait until a checkpoint is being written.
        """
        expected, seconds = self.uninterrupted(agent)
        self.n_started += 1
        run = self.folder / f"{agent}-{self.n_started}"
        log = run.with_suffix(".log")
        process = start(train_command(agent, "--out", str(run)), log)
        wait_for((run / "config.json").exists, process)
        self.pause(0, seconds)
        if while_writing:
            wait_for(lambda: list((run / "checkpoints").glob(".*.tmp")), process, pause=0)
        if not process.is_alive():
            join(process)
            return  # too late: tried again
        assert process.pid is not None
        os.kill(process.pid, number)
        code = join(process)
        if code == 0:
            return  # it had ended
        outcome.n_tried += 1
        if list((run / "checkpoints").glob(".*.tmp")):
            outcome.count("killed while writing a checkpoint")
        if number == signal.SIGTERM and code == 128 + number:
            outcome.count("printed how to resume")
            assert f"vit-patch train --resume {run}" in log.read_text()
        kept = newest_step(run)
        outcome.count("after a checkpoint" if kept else "before the first checkpoint")
        code = join(start(["train", "--resume", str(run)], log))
        if code:
            outcome.problems.append(f"{run.name}: exit status {code}: {log.read_text()[-300:]}")
        elif resumed_step(log) != kept:
            outcome.problems.append(
                f"{run.name}: resumed at step {resumed_step(log)} instead of {kept}"
            )
        else:
            outcome.judge(trajectory(run) == expected, f"{run.name}: different results")

    def kills(self, n_runs: int, agents: list[str]) -> Outcome:
        """SIGKILL at random times, every third one while a checkpoint is written."""
        outcome = Outcome("SIGKILL")
        while outcome.n_tried < n_runs:
            agent = agents[outcome.n_tried % len(agents)]
            self.signal_run(outcome, agent, signal.SIGKILL, while_writing=outcome.n_tried % 3 == 0)
        return outcome

    def stops(self, n_runs: int, agents: list[str]) -> Outcome:
        """SIGTERM at random times."""
        outcome = Outcome("SIGTERM")
        while outcome.n_tried < n_runs:
            self.signal_run(outcome, agents[outcome.n_tried % len(agents)], signal.SIGTERM, False)
        return outcome

    def full_disks(self, n_runs: int, agents: list[str]) -> Outcome:
        """A disk that becomes full at a random time and has free space again later.

        Raises:
            PermissionError: if no file system can be mounted.
        """
        outcome = Outcome("full disk")
        while outcome.n_tried < n_runs:
            agent = agents[outcome.n_tried % len(agents)]
            expected, seconds = self.uninterrupted(agent)
            with small_disk(self.folder / f"disk-{outcome.n_tried}") as disk:
                run, log = disk / "run", disk.with_suffix(".log")
                process = start(train_command(agent, "--out", str(run)), log)
                wait_for(lambda run=run: newest_step(run), process)
                self.pause(0, seconds / 2)
                ballast = disk / "ballast"
                fill(ballast)
                warned = wait_for(
                    lambda log=log: "no checkpoint could be written" in log.read_text(), process
                )
                if not warned:
                    join(process)
                    continue
                outcome.n_tried += 1
                load_state(sorted((run / "checkpoints").glob("step-*.ckpt"))[-1])
                outcome.count("warned and kept an intact checkpoint")
                ballast.unlink()
                code = join(process)
                if code:
                    outcome.problems.append(
                        f"{agent}: exit status {code}: {log.read_text()[-300:]}"
                    )
                else:
                    outcome.judge(trajectory(run) == expected, f"{agent}: different results")
        return outcome

    def workers(self, n_runs: int, methods: list[str]) -> Outcome:
        """Workers of `compare` that are killed once."""
        outcome = Outcome("compare worker")
        words = ["compare", *TINY_OPTIONS, "--epochs", "30", "--seeds", "0"]
        words += ["--methods", *methods, "--checkpoint-every", "3"]
        names = [f"{method}__0" for method in methods]
        out = self.folder / "compared"
        assert join(start([*words, "--out", str(out)], out.with_suffix(".log"))) == 0
        expected = [trajectory(out / "runs" / name) for name in names]
        while outcome.n_tried < n_runs:
            out = self.folder / f"compared-{outcome.n_tried}"
            process = start([*words, "--out", str(out)], out.with_suffix(".log"))
            run = out / "runs" / names[outcome.n_tried % len(names)]
            wait_for(lambda run=run: newest_step(run), process)
            self.pause(0, 0.3)
            killed = kill_writer(run / "log.txt")
            code = join(process)
            if not killed:
                continue
            outcome.n_tried += 1
            same = not code and [trajectory(out / "runs" / name) for name in names] == expected
            outcome.judge(same, f"{out.name}: exit status {code}, or different results")
        return outcome


def damages(checkpoints: Path, n_cuts: int, n_flips: int, rng: np.random.Generator) -> Outcome:
    """Damage the newest of several checkpoints, with and without older ones.

    Expected is that an older one is used with a warning, or else an error in one line.
    """
    outcome = Outcome("damaged checkpoint")
    folder = CheckpointFolder(checkpoints)
    newest, *older = folder.files
    content, expected = newest.read_bytes(), load_state(older[0])["n_steps"]
    for damage in damaged(content, n_cuts, n_flips, rng):
        outcome.n_tried += 1
        newest.write_bytes(damage)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = folder.load_newest()
        if loaded is None or loaded["n_steps"] != expected or len(caught) != 1:
            outcome.problems.append(f"{newest}: did not use the older one with a warning")
            continue
        hidden = [path.rename(path.with_suffix(".hidden")) for path in older]
        try:
            folder.load_newest()
        except ValueError as error:
            outcome.n_passed += "\n" not in str(error)
        else:
            outcome.problems.append(f"{newest}: used, though damaged")
        for path in hidden:
            path.rename(path.with_suffix(".ckpt"))
    newest.write_bytes(content)
    return outcome


def unfinished_run(folder: Path, agent: str) -> Path:
    """An unfinished run with several checkpoints."""
    run = folder / f"{agent}-unfinished"
    process = start(train_command(agent, "--out", str(run)), run.with_suffix(".log"))
    assert wait_for(lambda: len(list((run / "checkpoints").glob("step-*.ckpt"))) > 2, process)
    process.kill()
    join(process)
    return run
