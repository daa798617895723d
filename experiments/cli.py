"""The command `vit-patch`."""

import sys
from typing import Annotated

import tyro
from rich.console import Console

from experiments.bench import Bench
from experiments.evaluate import Evaluation
from experiments.options import BenchOptions, EvaluateOptions, TrainOptions
from experiments.train import Run

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
        print(f"vit-patch: {error}".replace("\n", " "), file=sys.stderr)
        sys.exit(2)
    command.run()
