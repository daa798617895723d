"""Memory over many steps: `make memory`."""

import resource

import numpy as np
import pytest

from vit_patch_env import ViTPatchSelectEnv


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_does_not_grow_over_ten_thousand_steps_of_changing_numbers_of_patches(precision):
    env = ViTPatchSelectEnv(
        dataset="synthetic", dim=32, depth=2, heads=2, dim_head=32, mlp_dim=64, patch_size=4,
        batch_size=32, epochs=10**6, device="cpu", precision=precision,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    peaks = []
    env.reset(seed=0)
    for step in range(10_001):
        n_keep = rng.integers(1, env.n_patches + 1)
        mask = np.zeros(env.n_patches, dtype=np.int8)
        mask[rng.permutation(env.n_patches)[:n_keep]] = 1
        env.step(mask)
        if step % 1000 == 0:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(f"\n{precision}: peak memory after every 1,000 steps, of that after the first 1,000:")
    print(" ".join(f"{peak / peaks[1]:.4f}" for peak in peaks))
    # The first thousand steps meet every number of patches; after them nothing may be added.
    assert peaks[-1] <= 1.02 * peaks[1]
