"""`python -m vit_patch_env.experiments.measure.machine DEVICE FILE`: describe the machine."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from vit_patch_env.experiments.run_folder.folder import device_name, processor_name, write_json
from vit_patch_env.system.limits import available_cpus, memory_limit

_QUERIED = {
    "driver_version": ("driver", ""),
    "clocks.sm": ("SM clock now", "MHz"),
    "clocks.max.sm": ("highest SM clock", "MHz"),
    "clocks.mem": ("memory clock now", "MHz"),
    "power.limit": ("power limit", "W"),
    "temperature.gpu": ("temperature", "°C"),
    "utilization.gpu": ("utilization before the measurements", "%"),
}
"""What nvidia-smi is asked for: names and units of what it answers."""


def description(device: torch.device) -> dict[str, dict[str, Any]]:
    """Value and unit by name."""
    found: dict[str, tuple[Any, str]] = {
        "device": (device_name(device), ""),
        "processor": (processor_name(), ""),
        "processors": (available_cpus(), ""),
        "memory": (round(memory_limit() / 1e9, 1), "GB"),
        "Python": (platform.python_version(), ""),
        "torch": (torch.__version__, ""),
        "CUDA of torch": (torch.version.cuda or "none", ""),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "GPU memory": (round(properties.total_memory / 1e9, 1), "GB"),
            "compute capability": (f"{properties.major}.{properties.minor}", ""),
            "streaming multiprocessors": (properties.multi_processor_count, ""),
            **_queried(torch.cuda.current_device() if device.index is None else device.index),
        }
    return {name: {"value": value, "unit": unit} for name, (value, unit) in found.items()}


def _queried(index: int) -> dict[str, tuple[Any, str]]:
    """What nvidia-smi says of a GPU; empty where there is no such program."""
    words = ["nvidia-smi", f"--query-gpu={','.join(_QUERIED)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [*words, f"--id={index}"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return {"nvidia-smi": (f"not available: {error}", "")}
    return parse_answer(done.stdout)


def parse_answer(answer: str) -> dict[str, tuple[Any, str]]:
    """nvidia-smi's line of what is `_QUERIED`, by name; without what this GPU does not have."""
    values = [one.strip() for one in answer.splitlines()[0].split(",")]
    found: dict[str, tuple[Any, str]] = {}
    for (name, unit), text in zip(_QUERIED.values(), values, strict=True):
        if text and not text.startswith("["):  # [N/A], [Not Supported]
            found[name] = (float(text) if unit else text, unit)
    return found


def main(args: list[str]) -> None:
    """Write the description of the machine with a device to a file of JSON."""
    device, path = args
    write_json(Path(path), description(torch.device(device)))


if __name__ == "__main__":
    main(sys.argv[1:])
