"""Faults in whole commands: signals to their group, their server killed, starts interrupted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.conftest import TINY_OPTIONS
from tests.faults.injection import Injector, Outcome
from tests.faults.runs import LIMIT_SECONDS, newest_step, trajectory
from vit_patch_env.experiments.agents_by_name.agent_file import read_card, read_parameters

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

METHODS = ("simple_vit", "agentvit")

COMPARE = [
    "compare", *TINY_OPTIONS, "--epochs", "30", "--seeds", "0", "--jobs", "2",
    "--checkpoint-every", "3", "--methods", *METHODS,
]  # fmt: skip

PRETRAIN = [
    "pretrain", *TINY_OPTIONS, "--batch-size", "16", "--epochs", "1", "--episodes", "24",
    "--jobs", "2", "--checkpoint-every", "10",
]  # fmt: skip

BENCH = ["bench", "--steps", "1", "--repeats", "1", "--max-repeats", "1"]


class Command:
    """`vit-patch` in a session of its own, as from a shell.

    Args:
        args: of the command.
        log: file that its output is appended to.
        env: variables of the environment besides those of this process.
    """

    def __init__(self, args: list[str], log: Path, **env: str) -> None:
        self.log = log
        program = Path(sys.executable).with_name("vit-patch")
        with log.open("a") as output:
            self.process = subprocess.Popen(
                [str(program), *args], stdout=output, stderr=output, start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | env, preexec_fn=_hear_signals,
            )  # fmt: skip

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def wait_for(self, condition: Callable[[], Any]) -> bool:
        """Wait until a condition is true or the command has ended; whether it became true."""
        while self.runs:
            if condition():
                return True
            time.sleep(0.005)
        return False

    def end(self) -> int:
        """Wait until the command has ended; its exit status.

        Raises:
            TimeoutExpired: if it does not end.
        """
        return self.process.wait(LIMIT_SECONDS)

    def members(self) -> list[int]:
        """The processes of its group."""
        return [pid for pid, fields in processes() if int(fields[2]) == self.process.pid]

    def remains(self) -> bool:
        """Whether a process of its group lives ten seconds longer than the command."""
        until = time.monotonic() + 10
        while self.members():
            if time.monotonic() > until:
                return True
            time.sleep(0.05)
        return False


def _hear_signals() -> None:
    """Hear SIGINT and SIGHUP, which programs in the background may ignore."""
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)


def processes() -> Iterator[tuple[int, list[str]]]:
    """The processes that live: their number, and what /proc/<number>/stat says after the name."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # it has just ended
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                yield int(entry.name), fields


@contextmanager
def started(args: list[str], log: Path, **env: str) -> Iterator[Command]:
    """A command, of which nothing outlives the block."""
    command = Command(args, log, **env)
    try:
        yield command
    finally:
        if command.runs or command.members():
            with suppress(ProcessLookupError):
                os.killpg(command.process.pid, signal.SIGKILL)
        command.process.wait()


def status(args: list[str], log: Path, **env: str) -> int:
    """The exit status of a command without faults."""
    with started(args, log, **env) as command:
        return command.end()


class CommandFaults(Injector):
    """Faults in commands."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        super().__init__(folder, seed)
        self._compared: tuple[list[Any], float] | None = None

    def groups(self, n_runs: int) -> Outcome:
        """A signal to the process group of `compare`, twice as `timeout` sends it."""
        outcome = Outcome("signal to compare's group")
        expected, seconds = self._uninterrupted()
        while outcome.n_tried < n_runs:
            out, log = self._new("group")
            number = STOPS[outcome.n_tried % len(STOPS)]
            with started([*COMPARE, "--out", str(out)], log) as command:
                command.wait_for(lambda out=out: all(map(newest_step, _runs(out))))
                self.pause(0, seconds)
                if not command.runs:
                    continue  # too late: tried again
                for _ in range(2):
                    with suppress(ProcessLookupError):
                        os.killpg(command.process.pid, number)
                    time.sleep(0.02)
                code = command.end()
                remains = command.remains()
            if code == 0 or "Write a report with" in log.read_text():
                continue  # too late as well
            outcome.n_tried += 1
            stopped = [(run / "log.txt").read_text() for run in _runs(out)]
            lost = [f"stopped at step {newest_step(run)};" for run in _runs(out)
                    if not (run / "result.json").exists()]  # fmt: skip
            text = log.read_text()
            if code != 128 + number or remains or "Traceback" in text + "".join(stopped):
                outcome.problems.append(f"{out.name}: status {code}, {remains}: {text[-300:]}")
                continue
            if any(words not in " ".join("".join(stopped).split()) for words in lost):
                outcome.problems.append(f"{out.name}: a run was not stopped at its checkpoint")
                continue
            self._finish(outcome, out, log, expected)
        return outcome

    def servers(self, n_runs: int) -> Outcome:
        """multiprocessing's server killed under `compare`, as by the out-of-memory killer."""
        outcome = Outcome("compare's fork server killed")
        expected, seconds = self._uninterrupted()
        while outcome.n_tried < n_runs:
            out, log = self._new("server")
            with started([*COMPARE, "--out", str(out)], log) as command:
                command.wait_for(lambda out=out: all(map(newest_step, _runs(out))))
                self.pause(0, seconds / 2)
                killed = _kill_server(command)
                code = command.end()
            if not killed:
                continue
            outcome.n_tried += 1
            logs = [(run / "log.txt").read_text() for run in _runs(out)]
            if code or _results(out) != expected:
                outcome.problems.append(f"{out.name}: status {code}: {log.read_text()[-300:]}")
            else:
                once = all(text.count("Training for") == 1 for text in logs)
                outcome.judge(once, f"{out.name}: a run was started again")
        return outcome

    def starts(self, n_runs: int) -> Outcome:
        """Signals while commands are imported, parsed and prepared."""
        outcome = Outcome("signal during a start")
        commands = [
            ["train", *TINY_OPTIONS], COMPARE, ["--help"], BENCH, ["evaluate", "nowhere"], PRETRAIN,
        ]  # fmt: skip
        whole = []
        for words in (["--help"], ["evaluate", "nowhere"]):
            _, log = self._new("whole")
            status(words, log)
            whole.append(log.read_text())
        for index in range(n_runs):
            out, log = self._new("start")
            args = list(commands[index % len(commands)])
            if args[0] in ("train", "compare", "bench"):
                args += ["--out", str(out)]
            elif args[0] == "pretrain":
                args += ["--out", f"{out}.zip"]
            number = STOPS[index // len(commands) % len(STOPS)]
            with started(args, log) as command:
                self.pause(0, 4)
                if not command.runs:
                    outcome.count("ended before")
                    continue
                os.killpg(command.process.pid, number)
                code = command.end()
                remains = command.remains()
            outcome.n_tried += 1
            text = log.read_text()
            # Before Python has started, and when it ends, there is nobody to catch a signal.
            expected = {128 + number, -number} if text in ("", *whole) else {128 + number}
            in_one_line = code in expected and not remains and "Traceback" not in text
            outcome.judge(in_one_line, f"{args[0]} {number}: status {code}: {text[-300:]}")
        return outcome

    def compilations(self, n_runs: int) -> Outcome:
        """Signals to the group of a run whose kernel is being compiled, which then resumes."""
        outcome = Outcome("signal while compiling")
        words = ["train", *TINY_OPTIONS, "--agent", "random", "--epochs", "4"]
        whole, log = self._new("compiled")
        assert status([*words, "--out", str(whole)], log) == 0, log.read_text()
        expected = trajectory(whole)
        for index in range(n_runs):
            out, log = self._new("compiling")
            number = STOPS[index % len(STOPS)]
            marker, compiler = out.with_suffix(".marker"), out.with_suffix(".cc")
            compiler.write_text(f'#!/bin/sh\ntouch {marker}\nsleep 0.5\nexec cc "$@"\n')
            compiler.chmod(0o755)
            cache = out.with_suffix(".cache")
            env = {"CC": str(compiler), "XDG_CACHE_HOME": str(cache)}
            with started([*words, "--out", str(out)], log, **env) as command:
                compiling = command.wait_for(marker.exists)
                self.pause(0, 0.4)
                os.killpg(command.process.pid, number)
                code = command.end()
            outcome.n_tried += 1
            text = log.read_text()
            if not compiling or code != 128 + number or "Traceback" in text:
                outcome.problems.append(f"{out.name}: status {code}: {text[-300:]}")
                continue
            begun = (out / "config.json").exists()
            again = ["train", "--resume", str(out)] if begun else [*words, "--out", str(out)]
            code = status(again, log, **env)
            same = not code and trajectory(out) == expected
            outcome.judge(same, f"{out.name}: status {code}, or another course")
        return outcome

    def pretrainings(self, n_runs: int) -> Outcome:
        """Signals, also SIGKILL, to `pretrain` with two processes, which then resumes."""
        outcome = Outcome("pretrain")
        whole, log = self._new("pretrained")
        with started([*PRETRAIN, "--out", f"{whole}.zip"], log) as command:
            folder = Path(f"{whole}.unfinished") / "checkpoints"
            command.wait_for(lambda: list(folder.glob("step-*.ckpt")))
            began = time.monotonic()
            assert command.end() == 0, log.read_text()
        seconds = time.monotonic() - began
        expected = _learned(whole)
        while outcome.n_tried < n_runs:
            out, log = self._new("pretraining")
            number = (*STOPS, signal.SIGKILL)[outcome.n_tried % 4]
            checkpoints = Path(f"{out}.unfinished") / "checkpoints"
            with started([*PRETRAIN, "--out", f"{out}.zip"], log) as command:
                command.wait_for(lambda folder=checkpoints: list(folder.glob("step-*.ckpt")))
                self.pause(0, seconds)
                if command.runs:
                    os.killpg(command.process.pid, number)
                code = command.end()
            if code == 0:
                continue
            outcome.n_tried += 1
            outcome.count(signal.Signals(number).name)
            text = log.read_text()
            saved = number == signal.SIGKILL or Path(f"{out}.zip").exists()
            if code not in (128 + number, -number) or not saved or "Traceback" in text:
                outcome.problems.append(f"{out.name}: status {code}: {text[-300:]}")
                continue
            code = status(["pretrain", "--resume", f"{out}.zip"], log)
            same = not code and _learned(out) == expected
            outcome.judge(same, f"{out.name}: status {code}, or another agent")
        return outcome

    def benches(self, n_runs: int) -> Outcome:
        """Signals to the group of `bench`: one line, and no process remains."""
        outcome = Outcome("signal to bench's group")
        while outcome.n_tried < n_runs:
            out, log = self._new("bench")
            number = STOPS[outcome.n_tried % len(STOPS)]
            with started([*BENCH, "--out", str(out)], log) as command:
                self.pause(4, 25)
                with suppress(ProcessLookupError):
                    os.killpg(command.process.pid, number)
                code = command.end()
                remains = command.remains()
            if code == 0:
                continue
            outcome.n_tried += 1
            text = log.read_text()
            in_one_line = code == 128 + number and not remains and "Traceback" not in text
            outcome.judge(in_one_line, f"{number}: status {code}, {remains}: {text[-500:]}")
        return outcome

    def reports(self, n_runs: int) -> Outcome:
        """Signals, also SIGKILL, to `report`: its files are whole, and it can be written again."""
        outcome = Outcome("report")
        self._uninterrupted()
        out, log = self.folder / "compared", self.folder / "report.log"
        began = time.monotonic()
        assert status(["report", str(out)], log) == 0, log.read_text()
        seconds = time.monotonic() - began
        expected = (out / "report.md").read_bytes()
        while outcome.n_tried < n_runs:
            number = (*STOPS, signal.SIGKILL)[outcome.n_tried % 4]
            with started(["report", str(out)], log) as command:
                self.pause(0.3 * seconds, 0.9 * seconds)
                command.process.send_signal(number)
                code = command.end()
            if code == 0:
                continue
            outcome.n_tried += 1
            whole = (out / "report.md").read_bytes() == expected
            if code not in (128 + number, -number) or not whole:
                outcome.problems.append(f"{number}: status {code}: {log.read_text()[-300:]}")
                continue
            code = status(["report", str(out)], log)
            same = not code and (out / "report.md").read_bytes() == expected
            outcome.judge(same, f"{number}: status {code}, or another report")
        if "Traceback" in log.read_text():
            outcome.problems.append("report: a traceback")
        return outcome

    def _new(self, name: str) -> tuple[Path, Path]:
        """A path that does not exist yet, and that of a log beside it."""
        number = sum(1 for _ in self.folder.glob(f"{name}-*.log"))
        out = self.folder / f"{name}-{number}"
        log = self.folder / f"{out.name}.log"
        log.touch()
        return out, log

    def _uninterrupted(self) -> tuple[list[Any], float]:
        """Results of a comparison without faults, and seconds that its runs train."""
        if self._compared is None:
            out, log = self.folder / "compared", self.folder / "compared.log"
            with started([*COMPARE, "--out", str(out)], log) as command:
                command.wait_for(lambda: all(map(newest_step, _runs(out))))
                began = time.monotonic()
                assert command.end() == 0, log.read_text()
            self._compared = _results(out), time.monotonic() - began
        return self._compared

    def _finish(self, outcome: Outcome, out: Path, log: Path, expected: list[Any]) -> None:
        """Resume a comparison, and compare its results."""
        code = status([*COMPARE, "--out", str(out)], log)
        same = not code and _results(out) == expected
        outcome.judge(same, f"{out.name}: status {code}, or different results")


def _runs(out: Path) -> list[Path]:
    return [out / "runs" / f"{method}__0" for method in METHODS]


def _results(out: Path) -> list[Any]:
    return [trajectory(run) for run in _runs(out) if (run / "result.json").exists()]


def _learned(out: Path) -> tuple[Any, ...]:
    """What an agent's file holds of what it learned."""
    path = Path(f"{out}.zip")
    networks = read_parameters(path)["policy"]
    weights = {name: value.tolist() for name, value in networks.items()}
    return weights, read_card(path).provenance["episodes"]


def _kill_server(command: Command) -> bool:
    """SIGKILL the process that forks the others; whether there was one."""
    for pid, fields in list(processes()):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if int(fields[1]) == command.process.pid and b"multiprocessing.forkserver" in words:
                os.kill(pid, signal.SIGKILL)
                return True
    return False
