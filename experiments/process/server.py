"""Imported by multiprocessing's server process alone, before all else.

It ignores the signals of its group: otherwise a signal for a command and its process group would
end the server, and with it the command would lose sight of its workers. The processes that the
server forks have the signals as they were, except SIGINT: multiprocessing gives them what the
server had before it forks, which ignores it too.

What it has imported is garbage collected neither by it nor by the processes that it forks, which
share that memory with it.
"""

import gc
import os
import signal

from vit_patch_env.experiments.process.signals import STOP_SIGNALS

_before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}


def _restore() -> None:
    for number, handler in _before.items():
        signal.signal(number, handler)


os.register_at_fork(before=gc.freeze, after_in_child=_restore)
signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # blocked by `fork_context`
