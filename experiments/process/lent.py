"""What a command changes in its process, which may be a notebook's, and which is given back."""

import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from vit_patch_env.experiments.process.messages import show_warning
from vit_patch_env.experiments.process.streams import usable_streams
from vit_patch_env.system.home import usable_home
from vit_patch_env.system.interrupts import Signals, interruptible


@contextmanager
def lent_process() -> Iterator[Signals]:
    """Within the block, the process is one of the command line; afterwards it is as before.

    Warnings are printed in one line, output never fails for a character, signals are exceptions,
    and a folder for caches is found. `sys.argv` is given back too, and the states of Python's and
    NumPy's global generators, which Stable-Baselines3 seeds.

    Yields:
        The signals received so far.
    """
    before = (warnings.showwarning, sys.argv, random.getstate(), np.random.get_state())  # noqa: NPY002
    with ExitStack() as lent:
        lent.enter_context(usable_streams())
        lent.enter_context(usable_home(os.environ))
        signals = lent.enter_context(interruptible())
        lent.callback(_give_back, before)
        warnings.showwarning = show_warning
        yield signals


def _give_back(before: tuple[Any, Any, Any, Any]) -> None:
    warnings.showwarning, sys.argv, python, numpy = before
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002  (what others set, not drawn from)


@contextmanager
def unchanged_libraries() -> Iterator[None]:
    """Within the block, a command may change what libraries keep for the whole process.

    Given back are the state of torch's global generator, its number of threads, and whether
    attention is compiled. Imports torch.
    """
    import torch

    from vit_patch_env.models.kernels import build

    generator, n_threads = torch.get_rng_state(), torch.get_num_threads()
    compiled = build.is_enabled()
    try:
        yield
    finally:
        torch.set_rng_state(generator)
        torch.set_num_threads(n_threads)
        build.enable(compiled)
