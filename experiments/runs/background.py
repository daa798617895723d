"""A run in its own process."""

import os
import warnings
from pathlib import Path
from typing import TextIO, cast

import torch
from rich.console import Console

from vit_patch_env.checks import InputError
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.process.messages import fail, show_warning
from vit_patch_env.experiments.process.output import BestEffortOutput
from vit_patch_env.experiments.process.workers import become_worker
from vit_patch_env.experiments.runs.resume import resumed_if_possible
from vit_patch_env.experiments.runs.train import Run


def train_in_background(options: TrainOptions, n_threads: int, log: str) -> None:
    """Train in this process, which was started for it, with its output in a log.

    An interrupted run with the same options is resumed if one of its checkpoints is intact;
    otherwise the run starts from the beginning.

    Args:
        options: of the run, with its folder as `out`.
        n_threads: of torch.
        log: path of a file that is appended to.
    """
    become_worker()
    with Path(log).open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        warnings.showwarning = show_warning
        torch.set_num_threads(n_threads)
        console = Console(file=cast("TextIO", BestEffortOutput(file)), width=120)
        try:
            run = Run(resumed_if_possible(options), console, pictures=False)
            run.prepare()
            run.run()
            CheckpointFolder(run.folder.checkpoints).clear()  # as comparisons are not extended
        except (InputError, OSError) as error:
            fail(error)
