"""What a command changes in its process, which may be a notebook's, and which is given back."""

import os
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
    and a folder for caches is found. Given back are also `sys.argv`, and torch's threads.

    Yields:
        The signals received so far.
    """
    before = (warnings.showwarning, sys.argv, sys.excepthook)
    with ExitStack() as lent:
        lent.enter_context(usable_streams())
        lent.enter_context(usable_home(os.environ))
        signals = lent.enter_context(interruptible())
        lent.callback(_give_back, before, _torch_threads())
        warnings.showwarning = show_warning
        yield signals


def _give_back(before: tuple[Any, Any, Any], n_threads: int | None) -> None:
    warnings.showwarning, sys.argv, sys.excepthook = before
    if n_threads is not None:
        sys.modules["torch"].set_num_threads(n_threads)


def _torch_threads() -> int | None:
    """Torch's number of threads; None if it was not imported, as nothing has chosen it then."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())
