"""`vit-patch measure`: one step after the other, within a time limit, resumed where it stopped."""

import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from pydantic import ConfigDict, TypeAdapter
from rich.console import Console
from typing_extensions import TypedDict

from vit_patch_env.arguments import to_json
from vit_patch_env.checks import ArgumentError, InputError, counted, named
from vit_patch_env.data.datasets import check_dataset
from vit_patch_env.experiments.measure.page import page
from vit_patch_env.experiments.measure.process import Process, Running
from vit_patch_env.experiments.measure.readers import OUTCOMES
from vit_patch_env.experiments.measure.steps import Step, make_steps
from vit_patch_env.experiments.measure.values import ValueFile
from vit_patch_env.experiments.options.commands import MeasureOptions
from vit_patch_env.experiments.options.flat import same_run
from vit_patch_env.experiments.process.output import print_line
from vit_patch_env.experiments.process.signals import stopping
from vit_patch_env.experiments.run_folder.folder import (
    LOCK,
    check_possible,
    device_name,
    how_it_failed,
    lock_folder,
    provenance,
    releasing_on_error,
    write_json,
)
from vit_patch_env.experiments.run_folder.schemas import read_checked
from vit_patch_env.system.files import replacing
from vit_patch_env.training.precision import resolve_device

MEASURE, VALUES, PAGE = "measure.json", "figures.jsonl", "README.md"

OUT_OF_TIME = 3
"""Exit status if the time limit left something to measure."""

_END_SECONDS = 10.0
"""Before the time limit, a running command is asked to end; at the limit it is killed."""

_END_SHARE = 0.1
"""Of a short time limit, instead."""

_POLL_SECONDS = 1.0
"""Between looks at the files of a running step."""

State = Literal["done", "failed", "skipped", "stopped"]


class _Outcome(TypedDict):
    """How a step has ended, and why."""

    state: State
    reason: str
    seconds: float


class _Fields(TypedDict):
    """Fields of measure.json."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    options: dict[str, Any]
    steps: dict[str, _Outcome]


_FIELDS: TypeAdapter[Any] = TypeAdapter(_Fields)

Start = Callable[[Sequence[str], Path], Running]
"""Starts a command, whose output is added to a log."""


class Measurement:
    """Measurements, which `prepare` checks and `run` makes.

    Args:
        options: what to measure.
        console: where progress is shown.
        start: starts the steps' commands.
    """

    device: torch.device
    lock: FileLock
    values: ValueFile
    steps: list[Step]

    def __init__(self, options: MeasureOptions, console: Console, start: Start = Process) -> None:
        began, limit = time.monotonic(), 60 * (options.minutes or math.inf)
        self.options = options
        self.console = console
        self.path = Path(options.out)
        self.outcomes: dict[str, _Outcome] = {}
        self._start = start
        self._running: Running | None = None
        self._end_seconds = min(_END_SECONDS, _END_SHARE * limit)
        self._stop_at = began + limit - self._end_seconds

    def prepare(self) -> None:
        """Check the options, lock the folder and read what was measured before.

        Raises:
            ValueError: for bad options, or a folder that holds something else.
        """
        options = self.options
        check_possible(self.path, "out")
        self.device = resolve_device(options.device)
        check_dataset(options.dataset, options.data_dir)
        self._check_folder()
        self.steps = make_steps(options, self.device, self.path)
        self.lock = lock_folder(self.path, "out")
        with releasing_on_error(self.lock):
            origin = provenance()
            versions = {**origin["versions"], "python": origin["python"]}
            if torch.version.cuda and self.device.type == "cuda":
                versions["cuda"] = torch.version.cuda
            machine = origin["machine"]
            if self.device.type == "cuda":
                machine = f"{device_name(self.device)}, {machine}"
            self.values = ValueFile(self.path / VALUES, machine, versions)
            self._write()

    def run(self) -> None:
        """Measure until all is done, or the time is over; exits with a status that says which.

        The status is 0 if all chosen steps were measured, 1 if one failed, 3 if the time limit left
        one; after a signal 128 plus its number. Nothing that was started is left running.
        """
        due = self._due()
        for step in due:  # how it has ended in an earlier run says nothing of this one
            self.outcomes.pop(step.name, None)
        try:
            with stopping(lambda: None, self._kill) as received:
                for step in due:
                    if not received:
                        self._run_step(step, received)
        finally:
            if self._running is not None:
                self._running.stop(0)
            self._write()
            self.lock.release()
        self._say_end()
        if received:
            sys.exit(128 + received[0])
        if self._failed():
            sys.exit(1)
        if self._left():
            sys.exit(OUT_OF_TIME)

    def _check_folder(self) -> None:
        """Refuse a folder that holds something else, or other measurements."""
        saved = self.path / MEASURE
        if not saved.exists():
            others = [one.name for one in self.path.iterdir()] if self.path.exists() else []
            if others and others != [LOCK]:
                raise ArgumentError(
                    "out",
                    "must be a new folder, or one that vit-patch measure wrote, got "
                    f"{self.path}, which holds {min(set(others) - {LOCK})}",
                )
            return
        content = read_checked(saved, _FIELDS)
        for name, value in self._settings().items():
            if content["options"].get(name) != value:
                raise ArgumentError(
                    "out",
                    f"must be a folder without other measurements, got {self.path}, made with "
                    f"{named(name)} {content['options'].get(name)} instead of {value}",
                )
        self.outcomes = content["steps"]

    def _settings(self) -> dict[str, Any]:
        """The options that determine what is measured, as JSON."""
        unimportant = same_run(self.options)
        values = {**to_json(self.options), "device": str(self.device)}
        return {name: value for name, value in values.items() if name not in unimportant}

    def _chosen(self, *states: State | None) -> list[Step]:
        """The chosen steps that are in one of these states; None is that of one without outcome."""
        chosen = self.options.steps
        found = {name: one["state"] for name, one in self.outcomes.items()}
        return [
            one
            for one in self.steps
            if (not chosen or one.name in chosen) and found.get(one.name) in states
        ]

    def _due(self) -> list[Step]:
        """The steps that are to be measured, those that are done left out."""
        return self._chosen(None, "failed", "skipped", "stopped")

    def _left(self) -> list[Step]:
        """The steps that the time was not enough for."""
        return self._chosen(None, "stopped")

    def _failed(self) -> list[Step]:
        return self._chosen("failed")

    def _run_step(self, step: Step, received: list[int]) -> None:
        """Measure a step, if there is time for it."""
        if step.missing:
            self._note(step, "skipped", step.missing)
            return
        needed = 0.0 if self.options.small else step.seconds
        if time.monotonic() + needed > self._stop_at:
            return
        print_line(f"{step.name} ...", self.console)
        if step.written is not None:  # what was in it would count as measured now
            step.written.unlink(missing_ok=True)
        began = time.monotonic()
        state, reason = self._measured(step, received)
        self._note(step, state, reason, time.monotonic() - began)

    def _measured(self, step: Step, received: list[int]) -> tuple[State, str]:
        """Run a step's commands; how it has ended, and why."""
        log = self.path / f"{step.name}.log"
        for words in step.commands:
            command = shlex.join(words)
            process = self._running = self._start(words, log)
            while (status := process.wait(_POLL_SECONDS)) is None:
                self._record(step, command)
                if received or time.monotonic() > self._stop_at:
                    process.stop(self._end_seconds)
                    self._record(step, command)
                    return "stopped", "a signal" if received else "the time limit"
            process.kill()  # what a command that failed may have left
            problem = self._record(step, command)
            if status:
                return "failed", f"{how_it_failed(status, log)} (log: {log})"
            if problem:
                return "failed", problem
        values = {one.name: one.value for one in step.read()}
        if values.keys() >= set(OUTCOMES) and not (values["passed"] or values["failed"]):
            return "skipped", f"{counted(values['skipped'], 'test')} skipped, none run"
        return "done", ""

    def _record(self, step: Step, command: str) -> str:
        """Add the step's values so far to the file; what is wrong with its files."""
        try:
            self.values.add(step.name, command, list(step.read()))
        except InputError as error:
            return str(error)
        return ""

    def _note(self, step: Step, state: State, reason: str, seconds: float = 0.0) -> None:
        """Note how a step has ended."""
        self.outcomes[step.name] = {
            "state": state, "reason": reason, "seconds": round(seconds, 1),
        }  # fmt: skip
        self._write()
        print_line(f"{step.name}: {self._state(step)}", self.console)

    def _state(self, step: Step) -> str:
        """A step's state in words."""
        outcome = self.outcomes.get(step.name)
        if outcome is None:
            return "not measured"
        if outcome["state"] == "done":
            return f"done in {outcome['seconds']:.0f} s"
        link = " by" if outcome["state"] == "stopped" else ":"
        return f"{outcome['state']}{link} {outcome['reason']}"

    def _write(self) -> None:
        """Write the state and the page."""
        content = {"options": self._settings(), "steps": self.outcomes, **provenance()}
        write_json(self.path / MEASURE, content)
        states = {step.name: self._state(step) for step in self.steps}
        with replacing(self.path / PAGE) as partial:
            text = page(self.values.read(), states)
            partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")

    def _say_end(self) -> None:
        print_line(f"Written to {self.path}: {VALUES}, and {PAGE} as a table.", self.console)
        rest = ""
        for state, steps in (("Failed", self._failed()), ("Left", self._left())):
            if steps:
                rest += f"{state}: {', '.join(step.name for step in steps)}. "
        if rest:
            print_line(f"{rest}The same command continues there.", self.console)

    def _kill(self) -> None:
        """End what is running at once."""
        if self._running is not None:
            self._running.kill()
