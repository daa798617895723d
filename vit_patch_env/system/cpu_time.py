"""How long this process's threads ran, and how long they waited for a CPU."""

import math
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_TASKS = Path("/proc/self/task")
_NANOSECONDS = 1e-9


class CpuTime(NamedTuple):
    """Seconds of the threads of this process that exist, since they started.

    Attributes:
        running: on a CPU.
        waiting: ready to run, while others had the CPUs.
    """

    running: float
    waiting: float


def cpu_time() -> CpuTime | None:
    """The times of this process's threads; None on systems that do not have them: not Linux."""
    running = waiting = 0.0
    found = False
    for path in _TASKS.glob("*/schedstat"):
        with suppress(OSError, ValueError):  # of a thread that has just ended
            on_cpu, in_queue, _ = path.read_text(encoding="utf-8").split()
            running += int(on_cpu) * _NANOSECONDS
            waiting += int(in_queue) * _NANOSECONDS
            found = True
    return CpuTime(running, waiting) if found else None


def waiting_share(before: CpuTime | None, after: CpuTime | None) -> float:
    """Share of the time that threads needed a CPU in which they had none, between two moments.

    Returns:
        The share, in [0, 1]; NaN if it is not known.
    """
    if before is None or after is None:
        return math.nan
    # Threads that have ended since then are no longer in the sums.
    running, waiting = (max(now - then, 0.0) for then, now in zip(before, after, strict=True))
    return waiting / (running + waiting) if running + waiting else math.nan
