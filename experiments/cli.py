"""The command `vit-patch`."""

import sys
import warnings
from typing import Annotated, Any, NoReturn, TextIO, cast

import tyro
from rich.console import Console

from vit_patch_env.experiments.bench.benchmark import Bench
from vit_patch_env.experiments.compare.comparison import Comparison
from vit_patch_env.experiments.compare.presets import preset
from vit_patch_env.experiments.options.commands import (
    BenchOptions,
    CompareOptions,
    EvaluateOptions,
    PretrainOptions,
    ReportOptions,
    TrainOptions,
)
from vit_patch_env.experiments.process.messages import fail, say, show_warning
from vit_patch_env.experiments.process.output import BestEffortOutput
from vit_patch_env.experiments.report.report import Report
from vit_patch_env.experiments.runs.evaluate import Evaluation
from vit_patch_env.experiments.runs.pretrain import Pretraining
from vit_patch_env.experiments.runs.train import Run
from vit_patch_env.system.memory import is_out_of_memory

_Train = Annotated[TrainOptions, tyro.conf.subcommand("train")]
_Bench = Annotated[BenchOptions, tyro.conf.subcommand("bench")]
_Evaluate = Annotated[EvaluateOptions, tyro.conf.subcommand("evaluate")]

_Pretrain = Annotated[PretrainOptions, tyro.conf.subcommand("pretrain")]
_Report = Annotated[ReportOptions, tyro.conf.subcommand("report")]

Options = (
    TrainOptions | EvaluateOptions | PretrainOptions | BenchOptions | CompareOptions | ReportOptions
)


def parse(args: list[str] | None = None) -> Options:
    """The options that these arguments, by default the command line's, ask for.

    Exits with a usage message and status 2 where they cannot be understood.

    Raises:
        ValueError: for an unknown preset.
    """
    args = sys.argv[1:] if args is None else args
    compare = Annotated[
        CompareOptions, tyro.conf.subcommand("compare", default=preset(_preset_name(args)))
    ]
    commands: Any = _Train | _Evaluate | _Pretrain | _Bench | compare | _Report
    options: Options = tyro.cli(commands, prog="vit-patch", args=args)
    return options


def _preset_name(args: list[str]) -> str:
    """The preset, whose values are the defaults of all the others."""
    for word, following in zip(args, [*args[1:], ""], strict=True):
        if word == "--preset":
            return following
        if word.startswith("--preset="):
            return word.removeprefix("--preset=")
    return CompareOptions.preset


def main(args: list[str] | None = None) -> None:
    """Run `vit-patch` with these arguments, by default the command line's.

    Exits with status 2 and one line on standard error where an argument is bad.
    """
    console = Console(file=cast("TextIO", BestEffortOutput(sys.stdout)))
    if not console.is_terminal:
        console.width = 120  # tables in a file need not fit a terminal
    commands = {
        TrainOptions: Run,
        EvaluateOptions: Evaluation,
        PretrainOptions: Pretraining,
        BenchOptions: Bench,
        CompareOptions: Comparison,
        ReportOptions: Report,
    }
    warnings.showwarning = show_warning
    try:
        options = parse(args)
        # All that a user can get wrong comes up here; later errors are ours, with a traceback.
        command = commands[type(options)](options, console)
    except (ValueError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        _interrupted()
    try:
        command.run()
    except KeyboardInterrupt:
        _interrupted()
    except MemoryError as error:
        fail(str(error))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        asked = _memory_asked_for(options)
        fail(f"out of memory{asked}: {str(error).splitlines()[0]}")


def _interrupted() -> NoReturn:
    """End the program after a Ctrl-C that nothing else took care of."""
    say("interrupted")
    sys.exit(130)


def _memory_asked_for(options: Options) -> str:
    if isinstance(options, (EvaluateOptions, ReportOptions)):
        return ""
    batch_size = (options if isinstance(options, BenchOptions) else options.env).batch_size
    return f" with --batch-size {batch_size}; half of it needs about half as much"
