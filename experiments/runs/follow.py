"""`vit-patch train` in the processes of torchrun other than the first."""

import sys
from dataclasses import replace

from rich.console import Console

from vit_patch_env.checks import InputError
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.runs.environment import make_env
from vit_patch_env.experiments.runs.resume import resumed_options, with_absolute_paths
from vit_patch_env.experiments.runs.train import Run
from vit_patch_env.system.launch import launch


class Follower:
    """Trains with the run of rank 0, which has the agent, the folder and the output.

    Args:
        options: of the run, the same in all processes.
        console: of the process, which stays empty.
    """

    def __init__(self, options: TrainOptions, console: Console) -> None:
        self.options = options

    def prepare(self) -> None:
        """Make the environment; rank 0 says what is wrong with the options."""
        try:
            options = self.options
            if options.resume is not None:
                options, _ = resumed_options(options)
            env = replace(with_absolute_paths(options).env, distributed=True)
            self.env = make_env(env)
        except (InputError, OSError):
            sys.exit(2)

    def run(self) -> None:
        """Train until rank 0 ends."""
        self.env.reset()


def make_run(options: TrainOptions, console: Console) -> Run | Follower:
    """The part that this process has in a run."""
    launched = launch()
    follows = launched is not None and launched.rank > 0
    return (Follower if follows else Run)(options, console)
