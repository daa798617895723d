"""Measures the time of a run in named spans, on the CPU and on CUDA."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

EXCLUDED = ("evaluate", "count", "other")
"""Spans that are not training time: evaluation, counting FLOPs, and what a caller excludes."""

Mark = float | torch.cuda.Event


class Stopwatch:
    """Seconds spent in named spans, and the training time since `start`.

    Attributes:
        seconds: of each span so far; 0 for a span that was never entered.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._started: float | None = None

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to a span."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started

    def start(self) -> None:
        """Start to measure the training time, unless it is already measured."""
        if self._started is None:
            self._started = time.perf_counter() - self.excluded

    @property
    def excluded(self) -> float:
        """Seconds of the spans that are not training time."""
        return sum(self.seconds[name] for name in EXCLUDED)

    @property
    def training(self) -> float:
        """Wall-clock seconds since `start`, without the excluded spans since then."""
        if self._started is None:
            return 0.0
        return time.perf_counter() - self._started - self.excluded

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far, as plain data."""
        training = None if self._started is None else self.training
        return {"seconds": dict(self.seconds), "training": training}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another stopwatch; the time in between is not measured."""
        self.seconds = defaultdict(float, state["seconds"])
        self._started = None
        if state["training"] is not None:
            self._started = time.perf_counter() - state["training"] - self.excluded


def mark(device: torch.device) -> Mark:
    """A timestamp of the device's work: on CUDA an event, as the host runs ahead of the device."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(start: Mark, end: Mark) -> float:
    """Seconds between two marks, after a synchronisation."""
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return start.elapsed_time(end) / 1000  # type: ignore[no-any-return]
    assert isinstance(start, float)
    assert isinstance(end, float)
    return end - start
