"""Processes that start with the libraries imported."""

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext

from vit_patch_env.experiments.process.signals import STOP_SIGNALS

_PRELOAD = [
    "vit_patch_env.experiments.process.server",  # first: until then signals are blocked
    "torch", "torchvision", "torch.utils.tensorboard", "stable_baselines3", "sklearn.metrics",
    "sklearn.model_selection", "sklearn.datasets", "torchvision.transforms.v2", "sb3_contrib",
    "pandas", "matplotlib.figure", "rich.live", "tyro", "pydantic", "torch.utils.flop_counter",
    "vit_patch_env.experiments.runs.background",
]  # fmt: skip
"""Imported once, in the server process that the others are forked from, which has no threads."""


def fork_context() -> ForkServerContext:
    """The multiprocessing context that starts such processes, with its server running.

    The server ignores signals of its process group. They are blocked while it starts, which it
    inherits, until it ignores them.
    """
    context = preloading_context()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()  # by itself, as it unblocks signals
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def preloading_context() -> ForkServerContext:
    """The same, with a server that is not started yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context
