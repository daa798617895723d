"""Seconds of training steps on this machine, by one process or by several as torchrun starts them.

As a module it is what each of several processes runs: see `measured_seconds`.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from vit_patch_env import ImageData, ViTPatchSelectEnv
from vit_patch_env.arguments import from_json, to_json
from vit_patch_env.checks import ArgumentError, InputError, counted
from vit_patch_env.config import EnvConfig
from vit_patch_env.data.splits import Split
from vit_patch_env.system.limits import available_cpus

_MODULE = "vit_patch_env.experiments.plan.measuring"

_ROUNDS = 5
"""Pairs of steps on each number of patches, taken in turn: the median of the second ones counts."""

MOST_FLOPS = {"cpu": 2e11, "cuda": 1e13}
"""FLOPs of the largest step that is measured on a device; a larger batch is a multiple of it."""


def check_devices(device: torch.device, n_devices: int) -> None:
    """Refuse more devices than this machine has.

    Raises:
        ArgumentError: for more.
    """
    is_cuda = device.type == "cuda"
    most = torch.cuda.device_count() if is_cuda else available_cpus()
    if n_devices > most:
        what = counted(most, "GPU") if is_cuda else counted(most, "processor")
        raise ArgumentError(
            "devices", f"must be at most {most}, as this machine has {what}, got {n_devices}"
        )
    if is_cuda and n_devices > 1 and device.index is not None:
        raise ArgumentError("device", f"must be cuda for several devices, got {device}")


def measured_batch(batch_size: int, n_devices: int, image_flops: float, device: str) -> int:
    """Images of the batch whose steps are measured: all, or as many as take no more than seconds.

    Args:
        batch_size: of the training, divisible by n_devices.
        n_devices: that train together.
        image_flops: FLOPs of a training step on an image, on all patches.
        device: its type, `cpu` or `cuda`.
    """
    per_device = batch_size // n_devices
    return n_devices * max(1, min(per_device, int(MOST_FLOPS[device] // image_flops)))


def measured_seconds(
    config: EnvConfig, n_classes: int, channels: int, counts: Sequence[int], n_devices: int
) -> list[float]:
    """Seconds of training steps on numbers of patches, of a batch of random images.

    They are steps of the environment, with everything that a step of `vit-patch train` has but the
    agent: preparing the batch, forward and backward pass, all-reduce, and update.

    Args:
        config: of the environment, with the batch size.
        n_classes: of the images.
        channels: of the images.
        counts: numbers of patches.
        n_devices: processes that train together.

    Raises:
        InputError: if the processes could not train.
    """
    if n_devices == 1:
        return _seconds(config, n_classes, channels, counts)
    with tempfile.TemporaryDirectory() as folder:
        request, found = Path(folder) / "request.json", Path(folder) / "seconds.json"
        content = {
            "config": to_json(replace(config, device=_kind(config))),
            "n_classes": n_classes,
            "channels": channels,
            "counts": list(counts),
        }
        request.write_text(json.dumps(content), encoding="utf-8")
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
            str(n_devices), "--log-dir", str(Path(folder) / "logs"),
            "-m", _MODULE, str(request), str(found),
        ]  # fmt: skip
        status, errors = _run(command)
        if status or not found.exists():
            lines = [one for one in errors.splitlines() if "Error: " in one] or ["no seconds"]
            raise InputError(f"expected {n_devices} processes that train together, got {lines[0]}")
        seconds: list[float] = json.loads(found.read_text(encoding="utf-8"))
        return seconds


def _run(command: Sequence[str]) -> tuple[int, str]:
    """Run torchrun; its exit status, and what it has written to standard error."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
    ) as torchrun:
        try:
            errors = torchrun.communicate()[1]
        except BaseException:  # a signal; killed, it would leave its processes behind
            torchrun.terminate()
            torchrun.communicate()
            raise
    return torchrun.returncode, errors


def _kind(config: EnvConfig) -> str:
    """The device without its number, as each process has its own."""
    return str(config.device).partition(":")[0]


def _seconds(
    config: EnvConfig,
    n_classes: int,
    channels: int,
    counts: Sequence[int],
    *,
    distributed: bool = False,
) -> list[float]:
    """`measured_seconds` of this process, or of all of them in rank 0."""
    data = _random_images(config, n_classes, channels)
    env = ViTPatchSelectEnv(**{**asdict(config), "dataset": data, "distributed": distributed})
    env.reset(seed=0)
    times: dict[int, list[float]] = {one: [] for one in counts}
    for _ in range(1 + _ROUNDS):
        for n_keep, taken in times.items():
            mask = (np.arange(config.n_patches) < n_keep).astype(np.int8)
            env.step(mask)  # as in a run, the one before has about as many patches
            started = time.perf_counter()
            env.step(mask)
            taken.append(time.perf_counter() - started)
    env.close()
    return [statistics.median(times[one][1:]) for one in counts]  # the first is a warm-up


def _random_images(config: EnvConfig, n_classes: int, channels: int) -> ImageData:
    """Two batches of them, and as few others as a data set has."""
    n_images = 2 * config.batch_size
    rng = np.random.default_rng(0)
    shape = (n_images, channels, *config.size)
    images = torch.from_numpy(rng.integers(0, 256, size=shape, dtype=np.uint8))
    split = Split(images, torch.arange(n_images, device="cpu") % n_classes)
    few = Split(*(one[:2] for one in split))
    classes = tuple(map(str, range(n_classes)))
    return ImageData(train=split, val=few, test=few, classes=classes, flip=True, notes=())


def main(request: str, found: str) -> None:
    """Measure in this process, one of several, and write the seconds if it is the first one."""
    content = json.loads(Path(request).read_text(encoding="utf-8"))
    config = from_json(EnvConfig, content["config"])
    seconds = _seconds(
        config, content["n_classes"], content["channels"], content["counts"], distributed=True
    )
    Path(found).write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
