"""The fixed cost of a training step on this machine, beside what grows with the patches."""

import time

import numpy as np
import torch

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.patches.shares import COST_SHARES, counts_at

LARGEST = 100.0
"""What `step_overhead` may be: then steps on any number of patches cost nearly the same."""

_ROUNDS = 15
_STEPS = 3
"""Steps in a row of one number of patches, in each of the rounds."""


def measure_overhead(env: ViTPatchSelectEnv) -> float:
    """The fixed cost of a step as a multiple of what a step on all patches costs beside it.

    Steps on five numbers of patches are timed in turn, by the processor time of this process on a
    CPU, and by the clock elsewhere. The shortest times, which other programs disturb least, are
    fitted by `fixed + rate * FLOPs`, weighted by their inverses.

    Args:
        env: a fresh environment, which is reset.

    Returns:
        In [0, 100]: an argument `step_overhead` of the environment.
    """
    clock = time.process_time if env.device.type == "cpu" else time.perf_counter
    env.reset(seed=0)
    counts = sorted(set(counts_at(COST_SHARES, env.n_patches)))
    masks = {n: np.arange(env.n_patches) < n for n in counts}
    seconds: dict[int, list[float]] = {n: [] for n in counts}
    for n in counts:  # the first step of each number allocates
        _step(env, masks[n])
    for _ in range(_ROUNDS):
        for n in counts:
            started = clock()
            for _ in range(_STEPS):
                _step(env, masks[n])
            seconds[n].append((clock() - started) / _STEPS)
    shortest = np.array([min(seconds[n]) for n in counts])
    flops = np.array([env.episode.run.step_flops(torch.arange(n)) for n in counts])
    design = np.stack([np.ones(len(counts)), flops / flops[-1]], axis=1)
    fixed, rate = np.linalg.lstsq(design / shortest[:, None], np.ones(len(counts)), rcond=None)[0]
    if rate <= 0:  # steps take as long on any number of patches
        return LARGEST
    return float(np.clip(fixed / rate, 0.0, LARGEST))


def _step(env: ViTPatchSelectEnv, mask: np.ndarray) -> None:
    """A step, in a new run if the last one has ended."""
    *_, terminated, truncated, _ = env.step(mask.astype(np.int8))
    if terminated or truncated:
        env.reset()
