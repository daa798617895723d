"""The command `vit-patch`."""

import atexit
import gc
import sys
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from typing import Any, TextIO, cast

from vit_patch_env.checks import InputError
from vit_patch_env.experiments.compare.presets import preset
from vit_patch_env.experiments.options.command_line import parse as parse_words
from vit_patch_env.experiments.options.commands import (
    BenchOptions,
    CacheOptions,
    CompareOptions,
    DistilOptions,
    EvaluateOptions,
    ExportOptions,
    MeasureOptions,
    PlanOptions,
    PredictOptions,
    PretrainOptions,
    ReportOptions,
    ShowOptions,
    TrainOptions,
    TuneOptions,
    ZooOptions,
)
from vit_patch_env.experiments.options.flat import typed
from vit_patch_env.experiments.options.saved import FORMER_OPTIONS
from vit_patch_env.system.interrupts import Signals
from vit_patch_env.system.launch import is_one_of_several
from vit_patch_env.system.starting import describe

COMMANDS: dict[str, tuple[type[Any], str]] = {
    "train": (TrainOptions, "runs.train:make_run"),
    "evaluate": (EvaluateOptions, "runs.evaluate:Evaluation"),
    "predict": (PredictOptions, "use.predict:Prediction"),
    "show": (ShowOptions, "use.show:Show"),
    "export": (ExportOptions, "use.export:Export"),
    "distil": (DistilOptions, "use.distil.distillation:Distillation"),
    "pretrain": (PretrainOptions, "compare.learning:make_pretraining"),
    "tune": (TuneOptions, "tune.tuning:Tuning"),
    "zoo": (ZooOptions, "zoo.command:Zoo"),
    "bench": (BenchOptions, "bench.benchmark:Bench"),
    "plan": (PlanOptions, "plan.planning:Planning"),
    "compare": (CompareOptions, "compare.task_comparison:make_comparison"),
    "measure": (MeasureOptions, "measure.measurement:Measurement"),
    "report": (ReportOptions, "report.report:Report"),
    "cache": (CacheOptions, "runs.cache:CacheView"),
}
"""Options of each command, and the class that runs it: imported when needed, as that is slow.

The class is constructed with the options and a console; `prepare` checks all user input, and `run`
does the work.
"""


def parse(args: list[str] | None = None) -> Any:
    """The options of a command from these arguments, by default those of the command line.

    Exits with a message and status 2 if they cannot be parsed.

    Raises:
        ArgumentError: naming an option whose value is not valid.
    """
    args = sys.argv[1:] if args is None else args
    words, of_script = (args[:2], args[2:]) if args[:1] == ["zoo"] else (args, [])
    for word in words:
        former = word.partition("=")[0]
        if former in FORMER_OPTIONS:
            raise InputError(f"{former} is called {FORMER_OPTIONS[former]} since version 0.2")
    defaults = {"compare": preset(_preset_name(words))}
    commands = {name: (kind, defaults.get(name)) for name, (kind, _) in COMMANDS.items()}
    options = parse_words(commands, words, prog="vit-patch")
    if hasattr(options, "given"):
        options = replace(options, given=tuple(sorted(typed(options, words))))
    return replace(options, args=tuple(of_script)) if of_script else options


def _preset_name(args: list[str]) -> str:
    """The given preset, which determines the defaults of all other options."""
    for word, following in pairwise([*args, ""]):
        if word == "--preset":
            return following
        if word.startswith("--preset="):
            return word.removeprefix("--preset=")
    return "smoke"


def main(args: list[str] | None = None) -> None:
    """Run `vit-patch` with these arguments, by default those of the command line.

    Exits with status 2 and one line on standard error if an argument is not valid; with 128 plus
    its number after a signal. What it changes in the process is given back, such as where warnings
    are shown.
    """
    if args is None:
        args = sys.argv[1:]
        atexit.register(gc.freeze)  # else Python looks through all that torch imported, for 2 s
    from vit_patch_env.experiments.process.lent import lent_process
    from vit_patch_env.experiments.process.messages import fail, say

    with ExitStack() as lent:
        try:
            signals = lent.enter_context(lent_process())
        except InputError as error:
            fail(error)
        try:
            _run(args, signals)
        except (InputError, OSError) as error:  # all others are bugs
            if not signals.received:
                fail(error)
        except BaseException:  # an interrupted import may raise anything
            if not signals.received:
                raise
        if signals.received:
            say(describe(signals.received[0]))
            sys.exit(128 + signals.received[0])


def _run(args: list[str], signals: Signals) -> None:
    """Parse the arguments, and run the command."""
    try:
        if args == ["--version"]:
            print(f"vit-patch {version('vit-patch-env')}")
            return
        options = parse(args or ["--help"])
    except BrokenPipeError:  # the reader of the help has seen enough
        return
    from rich.console import Console

    from vit_patch_env.experiments.process.lent import unchanged_libraries
    from vit_patch_env.experiments.process.messages import fail
    from vit_patch_env.experiments.process.output import BestEffortOutput
    from vit_patch_env.system.memory import is_out_of_memory

    # In a notebook rich would display each print by itself, as HTML, and leave the file aside.
    console = Console(file=cast("TextIO", BestEffortOutput(sys.stdout)), force_jupyter=False)
    if not console.is_terminal:
        console.width = 120  # tables in a file need not fit a terminal
    if is_one_of_several() and args[0] in (
        "bench",
        "compare",
        "measure",
        "plan",
        "pretrain",
        "tune",
    ):
        raise InputError(f"torchrun is for vit-patch train, got vit-patch {args[0]}")
    location = next(location for kind, location in COMMANDS.values() if type(options) is kind)
    module, _, class_name = location.partition(":")
    kind = getattr(import_module(f"vit_patch_env.experiments.{module}"), class_name)
    signals.check()
    try:
        with unchanged_libraries():
            command = kind(options, console)
            command.prepare()
            signals.check()
            command.run()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = "".join(f": {line}" for line in str(error).splitlines()[:1])
        fail(f"out of memory{_memory_hint(options)}{reason}")


def _memory_hint(options: Any) -> str:
    group = getattr(options, "env", options)
    if not hasattr(group, "batch_size"):
        return ""
    return f" with --batch-size {group.batch_size}; half of that needs about half the memory"
