"""The global random generators, seeded for a while."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from vit_patch_env.system.torch_state import float32_by_default, lending_global_state


@contextmanager
def seeded_generators(seeds: Sequence[int], part: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch; restore their states afterwards.

    For code that takes no generator, such as torchvision's transforms. Threads take turns; one
    that draws from these generators without this function may get the seeded numbers. Such code
    may also depend on the default type of numbers, which is float32 meanwhile.

    Args:
        seeds: integers from 0 that the numbers depend on, together with `part`.
        part: numbers the independent streams of these seeds, from 0.
        device: whose generator of torch is seeded besides the CPU's.
    """
    words = np.random.SeedSequence(seeds, spawn_key=(part,)).generate_state(2)
    seed = int(words[0]) << 31 | int(words[1]) >> 1  # 63 bits
    devices = [device] if device.type == "cuda" else []
    with lending_global_state(), float32_by_default, torch.random.fork_rng(devices):
        python, legacy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
        try:
            random.seed(seed)
            np.random.seed(words)  # noqa: NPY002
            torch.default_generator.manual_seed(seed)
            if devices:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
