"""Processes that start with the libraries imported."""

import multiprocessing
from multiprocessing.context import ForkServerContext

_PRELOAD = [
    "torch", "torchvision", "torch.utils.tensorboard", "stable_baselines3", "sklearn.metrics",
    "sklearn.model_selection", "sklearn.datasets", "torchvision.transforms.v2", "sb3_contrib",
    "pandas", "matplotlib.figure", "rich.live", "tyro", "pydantic", "torch.utils.flop_counter",
]  # fmt: skip
"""Imported once, in the server process that the others are forked from, which has no threads."""


def fork_context() -> ForkServerContext:
    """The multiprocessing context that starts such processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context
