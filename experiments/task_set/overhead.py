"""The fixed cost of a training step on this machine, beside what grows with the patches."""

import time

import numpy as np
import torch

from vit_patch_env import ViTPatchSelectEnv

_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Of the patches, on which steps are timed."""

_ROUNDS = 7
_STEPS = 3
"""Steps in a row of one number of patches, in each of the rounds."""


def measure_overhead(env: ViTPatchSelectEnv) -> float:
    """The fixed cost of a step as a multiple of what a step on all patches costs beside it.

    Steps on five numbers of patches are timed in turn, by the processor time of this process on a
    CPU, which other programs disturb little, and by the clock elsewhere. The medians are fitted by
    `fixed + rate * FLOPs`, weighted by their inverses.

    Args:
        env: a fresh environment, which is reset.

    Returns:
        At least 0: an argument `step_overhead` of the environment.
    """
    clock = time.process_time if env.device.type == "cpu" else time.perf_counter
    env.reset(seed=0)
    counts = sorted({max(round(share * env.n_patches), 1) for share in _SHARES})
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
    medians = np.array([np.median(seconds[n]) for n in counts])
    flops = np.array([env.episode.run.step_flops(torch.arange(n)) for n in counts])
    design = np.stack([np.ones(len(counts)), flops / flops[-1]], axis=1)
    fixed, rate = np.linalg.lstsq(design / medians[:, None], np.ones(len(counts)), rcond=None)[0]
    return float(max(fixed / rate, 0.0)) if rate > 0 else 0.0


def _step(env: ViTPatchSelectEnv, mask: np.ndarray) -> None:
    """A step, in a new run if the last one has ended."""
    *_, terminated, truncated, _ = env.step(mask.astype(np.int8))
    if terminated or truncated:
        env.reset()
