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

IMAGES = (None, 32, 16)
PATCHES = (40, 16)
OBSERVED = ("attention_output", "attention_output:0,2,5")
N_REPEATS = 5


def seconds(function: Callable[[], Any]) -> float:
    """CPU time of a call."""
    started = time.process_time()
    function()
    return time.process_time() - started


def measure(precision: str) -> None:
    """Print the rows of one precision."""
    env = ViTPatchSelectEnv(batch_size=128, precision=precision, observation="none", device="cpu")
    env.reset(seed=0)
    run = env.episode.run
    times, errors = defaultdict(list), defaultdict(list)
    for _ in range(N_REPEATS + 1):  # the first one warms up
        for n_patches in PATCHES:
            keep = torch.arange(n_patches)
            times[n_patches].append(seconds(lambda keep=keep: run.step(keep)))
        images = run.batch.images
        for text in OBSERVED:
            found = {}
            for n in IMAGES:
                run._observation = make_observation(text, n)
                found[n] = run.observe(images).numpy()
                times[text, n].append(seconds(lambda images=images: run.observe(images)))
                difference = np.sqrt(np.mean((found[n] - found[None]) ** 2))
                errors[text, n].append(difference / found[None].std())
        run._observation = make_observation("none")
    median = {key: statistics.median(values[1:]) for key, values in times.items()}
    for text in OBSERVED:
        for n in IMAGES:
            observe = median[text, n]
            shares = [f"{observe / (observe + median[n_patches]):.1%}" for n_patches in PATCHES]
            cells = (f"`{text}`", n or "all", f"{1000 * observe:.1f}", *shares)
            error = f"{statistics.median(errors[text, n]):.2f}"
            print("|", " | ".join(map(str, (precision, *cells, error))), "|", flush=True)
    print("steps:", *(f"{n}: {1000 * median[n]:.0f} ms" for n in PATCHES), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in ("bf16", "fp32"):
        measure(name)
