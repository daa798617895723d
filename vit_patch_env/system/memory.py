"""Memory: keeping freed blocks for the next step, size checks, out-of-memory detection, peaks."""

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

from vit_patch_env.checks import InputError
from vit_patch_env.system.limits import memory_limit, number_after

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

# Numbers of mallopt's parameters in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks instead of returning them to the system; whether it can.

    By default every large tensor of a step on the CPU is mapped again, with a page fault for each
    of its pages, which can take longer than the step's arithmetic. The setting applies to the
    process: its peak memory stays about the same, but is not returned before the process ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    return all(
        mallopt(parameter, value)
        for parameter, value in (
            (_M_MMAP_THRESHOLD, 1 << 30),
            (_M_TRIM_THRESHOLD, (1 << 31) - 1),
            (_M_TOP_PAD, 1 << 26),
        )
    )


def release_freed_memory(device: torch.device) -> None:
    """Return freed blocks to the system or the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def check_fits(n_bytes: int, purpose: str, device: torch.device | None = None) -> None:
    """Refuse an allocation larger than a device's memory, by default the host's, before it is made.

    Raises:
        ValueError: "expected ... to fit into 24.0 GB of memory, got 482.0 GB".
    """
    if device is not None and device.type == "cuda":
        available = torch.cuda.get_device_properties(device).total_memory
    else:
        available = memory_limit()
    if n_bytes > available:
        raise InputError(
            f"expected {purpose} to fit into {available / 1e9:.1f} GB of memory, "
            f"got {n_bytes // 10**9} GB"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the host or the device ran out of memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


_measured: set[torch.device] = set()
"""Devices whose peak is measured: `reset_peak_memory` was called."""

_peaks_before: dict[torch.device, int] = {}
"""Peaks before blocks that `excluded_from_peak` excluded, since the last reset."""


@contextmanager
def excluded_from_peak(device: torch.device) -> Iterator[None]:
    """Leave what the block allocates out of `peak_memory`, if that is measured since a reset.

    Otherwise nothing is reset: the process's peak may be of interest to its user.
    """
    if device not in _measured:
        yield
        return
    before = peak_memory(device)
    try:
        yield
    finally:
        reset_peak_memory(device)
        _peaks_before[device] = before


def reset_peak_memory(device: torch.device) -> None:
    """Reset `peak_memory`; on the CPU of systems other than Linux this is not possible."""
    _peaks_before.pop(device, None)
    _measured.add(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _STATUS.exists():
        with suppress(OSError):  # not allowed in some containers
            _CLEAR.write_text("5", encoding="utf-8")


def peak_memory(device: torch.device) -> int:
    """Peak bytes of this process: resident on the CPU, allocated on CUDA."""
    return max(_measured_peak(device), _peaks_before.get(device, 0))


def _measured_peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        return 1024 * number_after(_STATUS, "VmHWM:")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
