"""Memory and open files do not grow over many steps and resets: `make memory`."""

import os
from pathlib import Path

import numpy as np
import pytest

from vit_patch_env import ViTPatchSelectEnv

pytestmark = pytest.mark.counts_flops


def make(precision="fp32"):
    return ViTPatchSelectEnv(
        dataset="digits", dim=32, depth=2, heads=2, dim_head=32, mlp_dim=64, batch_size=32,
        epochs=10**6, device="cpu", precision=precision,
    )  # fmt: skip


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def n_open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def assert_no_growth(name, values):
    """The last value is at most 2 % above the second."""
    print(f"\n{name}: " + " ".join(f"{value / values[1]:.4f}" for value in values))
    assert values[-1] <= 1.02 * values[1]


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_growth_over_20000_steps_with_changing_numbers_of_patches(precision):
    env = make(precision)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    resident, opened = [], []
    for step in range(20_001):
        n_keep = rng.integers(1, env.n_patches + 1)
        mask = np.zeros(env.n_patches, dtype=np.int8)
        mask[rng.permutation(env.n_patches)[:n_keep]] = 1
        env.step(mask)
        if step % 2000 == 0:
            resident.append(resident_bytes())
            opened.append(n_open_files())
    # The first 2,000 steps include every number of patches.
    assert_no_growth(
        f"{precision}: resident memory every 2,000 steps, relative to the first 2,000", resident
    )
    assert len(set(opened)) == 1


@pytest.mark.long
def test_no_growth_over_1000_resets():
    env = make()
    resident, opened = [], []
    for reset in range(1001):
        env.reset()
        env.step(np.ones(env.n_patches, dtype=np.int8))
        if reset % 100 == 0:
            resident.append(resident_bytes())
            opened.append(n_open_files())
    assert_no_growth("resident memory every 100 resets, relative to the first 100", resident)
    assert len(set(opened)) == 1


@pytest.mark.long
def test_close_frees_memory():
    resident = []
    for _ in range(6):
        env = ViTPatchSelectEnv(dataset="digits", device="cpu", precision="fp32")
        env.reset(seed=0)
        env.step(np.ones(env.n_patches, dtype=np.int8))
        before = resident_bytes()
        env.close()
        resident.append(resident_bytes())
        print(f"\n{before / 1e6:.0f} MB, after close {resident[-1] / 1e6:.0f} MB")
        assert resident[-1] < before - 50e6  # the weights and Adam's state alone
    assert_no_growth("resident memory after every close, relative to the second", resident)
