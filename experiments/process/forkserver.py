"""Processes that begin with the libraries loaded, and share nothing else."""

import multiprocessing
from multiprocessing.context import ForkServerContext

_PRELOAD = [
    "torch", "torchvision", "torch.utils.tensorboard", "stable_baselines3", "sklearn.metrics",
    "pandas", "matplotlib.figure", "rich.live", "tyro",
]  # fmt: skip
"""Imported once, in the process that others are forked from, where no thread has begun. Nothing of
ours: the environment would take itself for a forked one, which may use one thread only."""


def fork_context() -> ForkServerContext:
    """The context to start such processes in."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context
