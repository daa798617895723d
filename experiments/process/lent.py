"""What a command changes in its process, which may be a notebook's, and which is given back."""

import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from vit_patch_env.experiments.process.messages import show_warning
from vit_patch_env.experiments.process.streams import usable_streams
from vit_patch_env.system.home import usable_home
from vit_patch_env.system.interrupts import Signals, interruptible


@contextmanager
def lent_process() -> Iterator[Signals]:
    """Within the block, the process is one of the command line; afterwards it is as before.

    Warnings are printed in one line, output never fails for a character, signals are exceptions,
    and a folder for caches is found. `sys.argv` is given back too.

    Yields:
        The signals received so far.
    """
    before = (warnings.showwarning, sys.argv)
    with ExitStack() as lent:
        lent.enter_context(usable_streams())
        lent.enter_context(usable_home(os.environ))
        signals = lent.enter_context(interruptible())
        lent.callback(_give_back, before)
        warnings.showwarning = show_warning
        yield signals


def _give_back(before: tuple[Any, Any]) -> None:
    warnings.showwarning, sys.argv = before


@contextmanager
def unchanged_libraries() -> Iterator[None]:
    """Within the block, a command may change what libraries keep for the whole process.

    Given back are the states of the global generators, which Stable-Baselines3 seeds, torch's
    number of threads, and whether attention is compiled. Imports torch.
    """
    import numpy as np
    import torch

    from vit_patch_env.models.kernels import build

    python, numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    n_threads, compiled = torch.get_num_threads(), build.is_enabled()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002  (what others set, not drawn from)
        torch.set_rng_state(of_torch)
        torch.set_num_threads(n_threads)
        build.enable(compiled)
