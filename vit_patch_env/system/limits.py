"""How much memory a process may use: of the machine, of its container, and of its own limit."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

_CGROUPS = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self")
_MEMINFO = Path("/proc/meminfo")


def memory_limit() -> int:
    """Bytes that this process can have at most: physical memory, or less in a container."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [limit for limit, _ in _cgroup_limits()]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]  # `ulimit -v`
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    return min(limits)


def available_memory(device: torch.device | None = None) -> int:
    """Bytes that can still be allocated on a device, by default the host, without swapping."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = [memory_limit()]
    available += [limit - used for limit, used in _cgroup_limits()]
    if _MEMINFO.exists():
        available.append(1024 * number_after(_MEMINFO, "MemAvailable:"))
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY and (_SELF / "statm").exists():
        pages = int((_SELF / "statm").read_text(encoding="utf-8").split()[0])
        available.append(address_space - pages * os.sysconf("SC_PAGE_SIZE"))
    return max(min(available), 0)


def available_cpus() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _cgroup_limits() -> Iterator[tuple[int, int]]:
    """(Limit, use) in bytes of every control group around this process that has a limit.

    Pages of files that the system can drop at any time are no use.
    """
    for folder, limit, usage in _cgroup_folders():
        text = _read(folder / limit)
        if text.isdecimal():  # "max" for none; version 1 has a number beyond any memory
            stat = folder / "memory.stat"
            names = ("inactive_file", "active_file")
            droppable = sum(number_after(stat, name) for name in names) if stat.exists() else 0
            yield int(text), max(int(_read(folder / usage) or 0) - droppable, 0)


def _cgroup_folders() -> Iterator[tuple[Path, str, str]]:
    """Folders with the names of their files of limit and use, of cgroups version 2 and 1."""
    for line in _read(_SELF / "cgroup").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            root, names = _CGROUPS, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = _CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = root / path.lstrip("/")
        while folder != root:
            yield folder, *names
            folder = folder.parent
        yield root, *names  # within a container, the container's own


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def number_after(path: Path, name: str) -> int:
    """The number that follows a name in a file of names and numbers; 0 if it is not there."""
    for line in _read(path).splitlines():
        words = line.split()
        if words[:1] == [name]:
            return int(words[1])
    return 0
