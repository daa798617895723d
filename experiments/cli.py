"""The command `vit-patch`."""

import sys
from typing import Annotated, NoReturn

import tyro
from rich.console import Console

from experiments.bench import Bench
from experiments.evaluate import Evaluation
from experiments.options import BenchOptions, EvaluateOptions, TrainOptions
from experiments.train import Run
from vit_patch_env.memory import is_out_of_memory

_Train = Annotated[TrainOptions, tyro.conf.subcommand("train")]
_Bench = Annotated[BenchOptions, tyro.conf.subcommand("bench")]
_Evaluate = Annotated[EvaluateOptions, tyro.conf.subcommand("evaluate")]


def parse(args: list[str] | None = None) -> TrainOptions | EvaluateOptions | BenchOptions:
    """The options that these arguments, by default the command line's, ask for.

    Exits with a usage message and status 2 where they cannot be understood.
    """
    return tyro.cli(_Train | _Evaluate | _Bench, prog="vit-patch", args=args)


def main(args: list[str] | None = None) -> None:
    """Run `vit-patch` with these arguments, by default the command line's.

    Exits with status 2 and one line on standard error where an argument is bad.
    """
    options = parse(args)
    console = Console()
    if not console.is_terminal:
        console.width = 120  # tables in a file need not fit a terminal
    commands = {TrainOptions: Run, EvaluateOptions: Evaluation, BenchOptions: Bench}
    try:
        # All that a user can get wrong comes up here; later errors are ours, with a traceback.
        command = commands[type(options)](options, console)
    except (ValueError, OSError) as error:
        fail(str(error))
    try:
        command.run()
    except MemoryError as error:
        fail(str(error))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        asked = "" if isinstance(options, EvaluateOptions) else _memory_asked_for(options)
        fail(f"out of memory{asked}: {str(error).splitlines()[0]}")


def fail(message: str) -> NoReturn:
    """End the program with one line on standard error and status 2."""
    print("vit-patch: " + message.replace("\n", " "), file=sys.stderr)
    sys.exit(2)


def _memory_asked_for(options: TrainOptions | BenchOptions) -> str:
    batch_size = (options.env if isinstance(options, TrainOptions) else options).batch_size
    return f" with --batch-size {batch_size}; half of it needs about half as much"
