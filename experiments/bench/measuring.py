"""What the benchmark measures besides training: time, matmul throughput, FLOPs, profiles."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from vit_patch_env import SimpleViT
from vit_patch_env.training.flops import FlopCount

_PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear"),
    "attention": ("Attention", "attention", "softmax"),
    "optimiser": ("Optimizer.", "adam"),
}
_REST = "everything else"


def seconds(function: Callable[[int], object], n_steps: int, device: torch.device) -> float:
    """Seconds that a function of a number of steps takes, until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    function(n_steps)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def matrix_ceiling(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """FLOP/s that the device reaches in a large matrix product."""
    size = size if device.type == "cpu" else 4 * size
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = [seconds(lambda _: torch.mm(left, right), 1, device) for _ in range(6)]
    return float(2 * size**3 / statistics.median(times[1:]))  # the first one is a warm-up


def step_flops(n_keep: int, batch_size: int) -> int:
    """FLOPs of the matrix products in a training step of the paper's ViT."""
    images = torch.empty(batch_size, 3, 32, 32, device="meta")
    return FlopCount(SimpleViT(n_classes=10)).train_step(images, n_keep)


def step_shares(
    steps: Callable[[int], None], n_steps: int, device: torch.device
) -> tuple[dict[str, float], float | None]:
    """Profile training steps.

    Args:
        steps: trains a number of steps.
        n_steps: number of steps to profile.
        device: that it trains on.

    Returns:
        Shares of a step's work by part, empty where CUDA's counters are not accessible, and the
        share of the time that a CUDA device is idle, None for others.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with _silent_stderr(), profile(activities=activities) as profiler:
        total_seconds = seconds(steps, n_steps, device)

    shares = dict.fromkeys((*_PARTS, _REST), 0.0)
    for event in profiler.key_averages():
        if event.device_type.name != "CPU":
            continue  # a kernel, which is counted with the operation that launched it
        name = next(
            (part for part, keys in _PARTS.items() if any(key in event.key for key in keys)), _REST
        )
        shares[name] += event.self_device_time_total if cuda else event.self_cpu_time_total
    total = sum(shares.values())
    if not total:  # no access to CUDA's counters, as in some containers
        return {}, None
    idle = max(0.0, 1 - total / 1e6 / total_seconds) if cuda else None
    return {part: value / total for part, value in shares.items()}, idle


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard standard error of the process, to which torch's profiler writes debug messages."""
    stderr = os.dup(2)
    with Path(os.devnull).open("w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
