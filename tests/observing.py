"""`python -m tests.observing`: what observing part of a batch costs, and how far off it is.

The ViT of the paper's Table 1 on `digits`, batches of 128: the share of a step (training and
observation) that the observation takes, in CPU time, and the difference from the observation of the
whole batch over the standard deviation of its values between patches. Steps and observations of all
kinds are interleaved; medians.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.observation import make_observation

IMAGES = (None, 64, 32, 16, 8)
PATCHES = (40, 16)
OBSERVED = ("attention_output", "attention_received", "attention_output:0,2,5")
N_REPEATS = 7


def seconds(function: Callable[[], Any]) -> float:
    """CPU time of a call."""
    started = time.process_time()
    function()
    return time.process_time() - started


def measure(precision: str) -> None:
    """Print the rows of one precision."""
    env = ViTPatchSelectEnv(batch_size=128, precision=precision, observation="none")
    env.reset(seed=0)
    run = env.episode.run
    keeps = [torch.arange(n_patches) for n_patches in PATCHES]
    observed = {(text, n): make_observation(text, n).function for text in OBSERVED for n in IMAGES}
    times, errors = defaultdict(list), defaultdict(list)
    for repeat in range(N_REPEATS + 1):  # the first one warms up
        for keep in keeps:
            times[len(keep)].append(seconds(lambda keep=keep: run.step(keep)))
        for key, function in observed.items():
            run._observe = function
            times[key].append(seconds(lambda: run.observe(run.batch.images)))
            whole = make_observation(key[0]).function
            run._observe = whole
            expected = run.observe(run.batch.images).numpy()
            run._observe = function
            found = run.observe(run.batch.images).numpy()
            errors[key].append(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())
        run._observe = make_observation("none").function
        if not repeat:
            times.clear()
    median = {key: statistics.median(values) for key, values in times.items()}
    for text, n in observed:
        shares = (median[text, n] / (median[text, n] + median[one]) for one in PATCHES)
        print(
            f"| {precision} | `{text}` | {n or 'all'} | {1000 * median[text, n]:.1f} | "
            + " | ".join(f"{share:.1%}" for share in shares)
            + f" | {statistics.median(errors[text, n]):.3f} |"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in ("bf16", "fp32"):
        measure(name)
