"""How long this process's threads ran, and how long they waited for a CPU."""

import math
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_TASKS = Path("/proc/self/task")
_NANOSECONDS = 1e-9


class CpuTime(NamedTuple):
    """Seconds of a thread of this process since it started.

    Attributes:
        running: on a CPU.
        waiting: ready to run, while others had the CPUs.
    """

    running: float
    waiting: float


CpuTimes = dict[str, CpuTime]
"""Of the threads that exist, by their numbers; empty on systems other than Linux."""


def cpu_times() -> CpuTimes:
    """The times of this process's threads."""
    times = {}
    for path in _TASKS.glob("*/schedstat"):
        with suppress(OSError, ValueError):  # of a thread that has just ended
            on_cpu, in_queue, _ = path.read_text(encoding="utf-8").split()
            times[path.parent.name] = CpuTime(
                int(on_cpu) * _NANOSECONDS, int(in_queue) * _NANOSECONDS
            )
    return times


def waiting_share(before: CpuTimes, after: CpuTimes) -> float:
    """Share of the time that threads needed a CPU in which they had none, between two moments.

    Threads that have ended in between do not count.

    Returns:
        The share, in [0, 1]; NaN if it is not known.
    """
    running = waiting = 0.0
    for thread, now in after.items():
        then = before.get(thread, CpuTime(0.0, 0.0))
        if then.running <= now.running and then.waiting <= now.waiting:  # else another thread
            running += now.running - then.running
            waiting += now.waiting - then.waiting
    return waiting / (running + waiting) if before and running + waiting else math.nan
