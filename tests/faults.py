"""Runs that are killed, stopped and starved of disk, and whether they come to the same end.

`make faults` runs all of it and writes the outcome to RELIABILITY.md; tests/test_faults.py a few.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from tests.conftest import TINY_OPTIONS
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.process.forkserver import fork_context
from vit_patch_env.experiments.runs import train
from vit_patch_env.experiments.runs.folder import processor_name
from vit_patch_env.system.files import load_state

AGENTS: dict[str, list[str]] = {
    "paper": [],
    "branching": [],
    "ppo": [],
    "a2c": [],
    "bandit": ["--sb3", "decision_steps=5"],
    "random": [],
    "spread": [],
    "centre": ["--observation", "none"],
    "attended": ["--observation", "attention_received+run"],
    "quadratic": ["--budget", "flops"],
    "dqn": ["--actions", "count", "--sb3", "learning_starts=5", "buffer_size=100"],
    "sac": ["--actions", "top_k", "--sb3", "learning_starts=5", "buffer_size=100"],
}
"""Agents that are broken off, and options so that all parts of a run are met."""

TIMES = {"images_per_second", "train_seconds", "agent_seconds"}
NOT_THE_COURSE = {"train_seconds", "agent_seconds", "peak_memory_bytes", "command", "files"}
LIMIT_SECONDS = 120.0


def options(agent: str, *more: str) -> list[str]:
    """Words of a `vit-patch train` of seconds."""
    words = [*TINY_OPTIONS, "--agent", agent, *AGENTS[agent], "--seed", "5"]
    return ["train", *words, "--epochs", "8", "--checkpoint-every", "1", *more]


def start(args: list[str], log: Path) -> BaseProcess:
    """`vit-patch` in a process of its own, with one thread; what it says is added to the log."""
    process: BaseProcess = fork_context().Process(target=_command, args=(args, str(log)))
    process.start()
    return process


def _command(args: list[str], log: str) -> None:
    with Path(log).open("a", buffering=1) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.stdout = sys.stderr = file
        torch.set_num_threads(1)
        train.RETRY_SECONDS = 1.0  # a disk that is full at the very end is waited for
        main(args)


def end(process: BaseProcess) -> int:
    """Wait for a process, and say its exit code."""
    process.join(LIMIT_SECONDS)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"a process did not end within {LIMIT_SECONDS:.0f} s")
    return process.exitcode


def wait_for(condition: Callable[[], Any], process: BaseProcess, pause: float = 0.001) -> bool:
    """Whether something comes true while a process lives."""
    while process.is_alive():
        if condition():
            return True
        time.sleep(pause)
    return False


def course(run: Path) -> dict[str, Any]:
    """All that a run's files say, times, memory and the agent's archive aside."""
    result = json.loads((run / "result.json").read_text())
    digests = {name: result["files"][name] for name in ("steps.csv", "selected.csv")}
    lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    metrics = [
        [value for name, value in zip(lines[0], line, strict=True) if name not in TIMES]
        for line in lines
    ]
    figures = {name: value for name, value in result.items() if name not in NOT_THE_COURSE}
    return figures | digests | {"metrics": metrics, "vit": result["files"]["vit.safetensors"]}


def newest_step(run: Path) -> int:
    """Steps of the newest checkpoint; 0 where there is none."""
    names = sorted((run / "checkpoints").glob("step-*.ckpt"))
    return int(names[-1].stem.removeprefix("step-")) if names else 0


def resumed_step(log: Path) -> int:
    """The step that the last resumption in a log went on from."""
    words = log.read_text().replace("\n", " ").rpartition(", from step ")[2].split()
    return int(words[0]) if words[1:2] == ["on."] else 0


@dataclass
class Outcome:
    """Counts of one kind of fault.

    Attributes:
        name: of the fault.
        tried: runs that met it.
        equal: of those, that came to the same end as the unbroken run.
        counts: what else was counted.
        problems: what went wrong.
    """

    name: str
    tried: int = 0
    equal: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count(self, what: str) -> None:
        """One more of something."""
        self.counts[what] = self.counts.get(what, 0) + 1


class Faults:
    """Breaks runs off and compares what becomes of them with unbroken ones.

    Args:
        folder: for the runs.
        seed: of the moments.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self.unbroken: dict[str, tuple[dict[str, Any], float]] = {}
        self.n_started = 0

    def whole(self, agent: str) -> tuple[dict[str, Any], float]:
        """Course of the unbroken run, and seconds from its configuration to its end."""
        if agent not in self.unbroken:
            run = self.folder / f"{agent}-unbroken"
            process = start(options(agent, "--out", str(run)), run.with_suffix(".log"))
            wait_for((run / "config.json").exists, process)
            began = time.monotonic()
            assert end(process) == 0, run.with_suffix(".log").read_text()
            self.unbroken[agent] = course(run), time.monotonic() - began
        return self.unbroken[agent]

    def broken(self, outcome: Outcome, agent: str, number: int, while_writing: bool) -> None:
        """Break a run off by a signal at a random moment, go on with it, and compare.

        Args:
            outcome: that it is counted in.
            agent: of the run.
            number: of the signal.
            while_writing: wait for a checkpoint that is being written.
        """
        expected, seconds = self.whole(agent)
        self.n_started += 1
        run = self.folder / f"{agent}-{self.n_started}"
        log = run.with_suffix(".log")
        process = start(options(agent, "--out", str(run)), log)
        wait_for((run / "config.json").exists, process)
        time.sleep(float(self.rng.uniform(0, seconds)))
        if while_writing:
            wait_for(lambda: list((run / "checkpoints").glob(".*.tmp")), process, pause=0)
        if not process.is_alive():
            end(process)
            return  # too late: another moment
        assert process.pid is not None
        os.kill(process.pid, number)
        code = end(process)
        if code == 0:
            return  # at its end already
        outcome.tried += 1
        if list((run / "checkpoints").glob(".*.tmp")):
            outcome.count("died while a checkpoint was written")
        if number == signal.SIGTERM and code == 128 + number:
            outcome.count("said how to go on")
            assert f"vit-patch train --resume {run}" in log.read_text()
        kept = newest_step(run)
        outcome.count("before the first checkpoint" if not kept else "behind a checkpoint")
        code = end(start(["train", "--resume", str(run)], log))
        if code:
            outcome.problems.append(f"{run.name}: exit status {code}: {log.read_text()[-300:]}")
        elif resumed_step(log) != kept:
            outcome.problems.append(f"{run.name}: from step {resumed_step(log)}, not {kept}")
        elif course(run) != expected:
            outcome.problems.append(f"{run.name}: another course")
        else:
            outcome.equal += 1

    def kills(self, n_runs: int, agents: list[str]) -> Outcome:
        """SIGKILL at random moments, every third one while a checkpoint is written."""
        outcome = Outcome("SIGKILL")
        while outcome.tried < n_runs:
            agent = agents[outcome.tried % len(agents)]
            self.broken(outcome, agent, signal.SIGKILL, while_writing=outcome.tried % 3 == 0)
        return outcome

    def stops(self, n_runs: int, agents: list[str]) -> Outcome:
        """SIGTERM at random moments."""
        outcome = Outcome("SIGTERM")
        while outcome.tried < n_runs:
            self.broken(outcome, agents[outcome.tried % len(agents)], signal.SIGTERM, False)
        return outcome

    def full_disks(self, n_runs: int, agents: list[str]) -> Outcome:
        """A disk that fills up at a random moment and has room again some time later.

        Raises:
            PermissionError: where no file system can be mounted.
        """
        outcome = Outcome("full disk")
        while outcome.tried < n_runs:
            agent = agents[outcome.tried % len(agents)]
            expected, seconds = self.whole(agent)
            with small_disk(self.folder / f"disk-{outcome.tried}") as disk:
                run, log = disk / "run", disk.with_suffix(".log")
                process = start(options(agent, "--out", str(run)), log)
                wait_for(lambda run=run: newest_step(run), process)
                time.sleep(float(self.rng.uniform(0, seconds / 2)))
                ballast = disk / "ballast"
                fill(ballast)
                warned = wait_for(
                    lambda log=log: "no checkpoint could be written" in log.read_text(), process
                )
                if not warned:
                    end(process)
                    continue
                outcome.tried += 1
                load_state(sorted((run / "checkpoints").glob("step-*.ckpt"))[-1])
                outcome.count("warned, and kept a whole checkpoint")
                ballast.unlink()
                code = end(process)
                if code:
                    outcome.problems.append(
                        f"{agent}: exit status {code}: {log.read_text()[-300:]}"
                    )
                elif course(run) != expected:
                    outcome.problems.append(f"{agent}: another course")
                else:
                    outcome.equal += 1
        return outcome

    def workers(self, n_runs: int, methods: list[str]) -> Outcome:
        """Workers of `compare` that are killed, each once."""
        outcome = Outcome("compare worker")
        words = ["compare", *TINY_OPTIONS, "--epochs", "30", "--seeds", "0"]
        words += ["--methods", *methods, "--checkpoint-every", "3"]
        names = [f"{method}__0" for method in methods]
        whole = self.folder / "compared"
        assert end(start([*words, "--out", str(whole)], whole.with_suffix(".log"))) == 0
        expected = [course(whole / "runs" / name) for name in names]
        while outcome.tried < n_runs:
            out = self.folder / f"compared-{outcome.tried}"
            process = start([*words, "--out", str(out)], out.with_suffix(".log"))
            run = out / "runs" / names[outcome.tried % len(names)]
            wait_for(lambda run=run: newest_step(run), process)
            time.sleep(float(self.rng.uniform(0, 0.3)))
            killed = kill_writer(run / "log.txt")
            code = end(process)
            if not killed:
                continue
            outcome.tried += 1
            if code or [course(out / "runs" / name) for name in names] != expected:
                outcome.problems.append(f"{out.name}: exit status {code}, or another course")
            else:
                outcome.equal += 1
        return outcome


@contextlib.contextmanager
def small_disk(path: Path, megabytes: int = 40) -> Iterator[Path]:
    """A file system of that size, mounted at `path`.

    Raises:
        PermissionError: where none can be mounted.
    """
    path.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PermissionError("a small file system cannot be mounted here") from error
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def kill_writer(log: Path) -> bool:
    """SIGKILL the process whose output goes to that file; whether there was one."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and (entry / "fd" / "1").resolve() == log.resolve():
                os.kill(int(entry.name), signal.SIGKILL)
                return True
    return False


def damaged(content: bytes, n_cuts: int, n_flips: int, rng: np.random.Generator) -> Iterator[bytes]:
    """A file's content cut at places over all its length, and with single bits turned over."""
    for place in np.linspace(0, len(content) - 1, n_cuts).astype(int):
        yield content[:place]
    # The ends, where header and checksum are, and places between.
    places = [*range(8), *range(len(content) - 8, len(content))]
    places += rng.integers(len(content), size=n_flips - len(places)).tolist()
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        yield bytes(flipped)


def damages(checkpoints: Path, n_cuts: int, n_flips: int, rng: np.random.Generator) -> Outcome:
    """Damage the newest of two checkpoints or more, with and without the older ones.

    What counts as equal: an older one is taken with a warning, or all is refused in one line.
    """
    outcome = Outcome("damaged checkpoint")
    folder = CheckpointFolder(checkpoints)
    newest, *older = folder.files
    content, expected = newest.read_bytes(), load_state(older[0])["n_steps"]
    for damage in damaged(content, n_cuts, n_flips, rng):
        outcome.tried += 1
        newest.write_bytes(damage)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            taken = folder.newest()
        if taken is None or taken["n_steps"] != expected or len(caught) != 1:
            outcome.problems.append(f"{newest}: not the older one with a warning")
            continue
        hidden = [path.rename(path.with_suffix(".hidden")) for path in older]
        try:
            folder.newest()
        except ValueError as error:
            outcome.equal += "\n" not in str(error)
        else:
            outcome.problems.append(f"{newest}: taken, though damaged")
        for path in hidden:
            path.rename(path.with_suffix(".ckpt"))
    newest.write_bytes(content)
    return outcome


def stopped_run(folder: Path, agent: str) -> Path:
    """A run that was stopped in its middle, with two checkpoints or more."""
    run = folder / f"{agent}-stopped"
    process = start(options(agent, "--out", str(run)), run.with_suffix(".log"))
    assert wait_for(lambda: len(list((run / "checkpoints").glob("step-*.ckpt"))) > 2, process)
    process.kill()
    end(process)
    return run


def checkpoint_cost(folder: Path) -> dict[str, float]:
    """What checkpoints of the paper's ViT and agent cost: seconds, bytes, and shares of a run."""
    run = folder / "cost"
    args = ["train", "--out", str(run), "--epochs", "2", "--checkpoint-every", "5"]
    begin = parse(args)
    assert isinstance(begin, TrainOptions)
    whole = train.Run(begin, Console(quiet=True))
    sizes: list[int] = []
    write = whole.checkpoint.folder.write

    def watched(step: int, state: Any) -> None:
        write(step, state)
        sizes.append(whole.checkpoint.folder.files[0].stat().st_size)

    whole.checkpoint.folder.write = watched  # type: ignore[method-assign]
    result = whole.run()
    seconds = whole.checkpoint.seconds / whole.checkpoint.n_written
    n_steps = result["n_steps"]
    step_seconds = (result["train_seconds"] + result["agent_seconds"]) / n_steps
    ready = whole.checkpoint.ready_seconds / n_steps
    return {
        "megabytes": float(np.mean(sizes)) / 1e6,
        "seconds": seconds,
        "step_seconds": step_seconds,
        "ready_seconds": ready,
        "share": seconds / 300 + ready / step_seconds,
    }


def table(outcomes: list[Outcome]) -> str:
    """Markdown of outcomes."""
    lines = ["| fault | met | same end | of those |", "|---|---:|---:|---|"]
    for outcome in outcomes:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(outcome.counts.items()))
        lines.append(f"| {outcome.name} | {outcome.tried} | {outcome.equal} | {counts or '-'} |")
    return "\n".join(lines)


def write_outcome(path: Path, text: str) -> None:
    """Put a text between the marks of a Markdown file."""
    begin, stop = "<!-- outcome -->", "<!-- /outcome -->"
    before, _, rest = path.read_text().partition(begin)
    after = rest.partition(stop)[2]
    path.write_text(f"{before}{begin}\n{text}\n{stop}{after}")


def run_all() -> int:
    """All faults; writes RELIABILITY.md and says whether all came to the same end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30, help="kills; others are fewer")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--document", type=Path, default=Path("RELIABILITY.md"))
    given = parser.parse_args()
    agents = list(AGENTS)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("checkpoints' cost ...", flush=True)
        cost = checkpoint_cost(folder)
        faults = Faults(folder, given.seed)
        outcomes = []
        for part in (
            lambda: faults.kills(given.runs, agents),
            lambda: faults.stops(max(given.runs // 2, 1), agents),
            lambda: faults.full_disks(max(given.runs // 5, 1), agents),
            lambda: faults.workers(max(given.runs // 5, 1), ["simple_vit", "agentvit"]),
            *(
                lambda agent=agent: damages(
                    stopped_run(folder, agent) / "checkpoints", 20, 200, faults.rng
                )
                for agent in agents
            ),
        ):
            try:
                outcome = part()
            except PermissionError as error:
                outcome = Outcome(f"not tried: {error}")
            print(f"{outcome.name}: {outcome.equal} of {outcome.tried}", flush=True)
            for problem in outcome.problems:
                print(f"  {problem}", flush=True)
            outcomes.append(outcome)
    damage = Outcome("damaged checkpoint", counts={"agents' checkpoints": len(agents)})
    for outcome in [one for one in outcomes if one.name == damage.name]:
        outcomes.remove(outcome)
        damage.tried += outcome.tried
        damage.equal += outcome.equal
        damage.problems += outcome.problems
    outcomes.append(damage)
    write_outcome(
        given.document,
        f"Made by `python -m tests.faults --runs {given.runs} --seed {given.seed}`, the last part "
        "of `make faults`, in "
        f"{(time.monotonic() - began) / 60:.0f} min on {processor_name()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {torch.__version__}.\n\n{table(outcomes)}\n\n"
        f"A checkpoint of the paper's ViT and agent has {cost['megabytes']:.0f} MB and takes "
        f"{cost['seconds']:.2f} s; to be ready for one takes {1e3 * cost['ready_seconds']:.2f} ms "
        f"of a step of {1e3 * cost['step_seconds']:.0f} ms. At one in five minutes that is "
        f"**{cost['share']:.2%}** of a run's time.",
    )
    return int(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(run_all())
