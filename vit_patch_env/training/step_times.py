"""The time of training steps on this machine by the number of patches."""

import time
from collections.abc import Sequence

import torch

from vit_patch_env.system.torch_state import own_torch_state
from vit_patch_env.training.run import TrainingRun

_ROUNDS = 5
_SHARE_OF_BUDGET = 0.02


def step_times(run: TrainingRun, counts: Sequence[int], n_patches: int) -> list[float]:
    """Seconds of a step on each number of patches, with its observation.

    The shortest of up to five times each, taken in turn, after a step each to warm up. No more
    rounds begin after 2 % of a budget of seconds.

    Args:
        run: a fresh one, which is used up.
        counts: numbers of patches.
        n_patches: of an image.
    """
    device = run.trainer.precision.device
    times: dict[int, list[float]] = {n: [] for n in counts}
    began = time.perf_counter()
    devices = [device] if device.type == "cuda" else []
    with own_torch_state(model=run.trainer.model), torch.random.fork_rng(devices):
        for done in range(1 + _ROUNDS):
            if done > 1 and time.perf_counter() - began > _SHARE_OF_BUDGET * run.budget.total:
                break
            for n, taken in times.items():
                keep = None if n == n_patches else torch.arange(n, device=device)
                started = time.perf_counter()
                run.step(keep)
                taken.append(time.perf_counter() - started)
    return [min(times[n][1:]) for n in counts]
