"""Environments in several threads do not disturb each other, nor the threads beside them."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from vit_patch_env import SimpleViT, ViTPatchSelectEnv

pytestmark = pytest.mark.usefixtures("flops_counted_once")

WEIGHTS = {
    "simple_vit": "0ce97bc3be2f2ad2",
    "vit": "cbfc37c25bc555a7",
    "ats_vit": "cbfc37c25bc555a7",
    "evit": "cbfc37c25bc555a7",
    "tome": "0ce97bc3be2f2ad2",
    "patch_merger": "ef494e6c3fe711fb",
    "patch_dropout": "c41b044f5f01945c",
    "token_expansion": "0ce97bc3be2f2ad2",
}
"""Digests of the initial weights of seed 3, as published results have them."""

PACKAGES = {"patch_merger": "vit_pytorch", "patch_dropout": "timm"}


def own_model(n_classes, channels):
    return SimpleViT(
        n_classes=n_classes, channels=channels, patch_size=8, dim=16, depth=1, heads=2,
        dim_head=8, mlp_dim=16,
    )  # fmt: skip


VARIANTS = {
    "simple_vit": {},
    "patch_dropout": {"model": "patch_dropout"},
    "own": {"model": own_model},
    "augmented": {"augment": "randaugment", "mixup": 0.2, "random_erasing": 0.2},
}


def digest(env):
    """Of the weights, and of a model's generator."""
    total = hashlib.sha256()
    for name, weight in env.episode.model.state_dict().items():
        total.update(name.encode())
        total.update(weight.numpy().tobytes())
    return total.hexdigest()[:16]


def run(seed, **kwargs):
    env = ViTPatchSelectEnv(**{**TINY, **kwargs})
    digests = []
    for reset_seed in (seed, None):
        env.reset(seed=reset_seed)
        digests.append(digest(env))
        env.step(np.arange(16) % 2)
        digests.append(digest(env))
    return digests


@pytest.mark.parametrize("model", WEIGHTS)
def test_a_seed_has_the_weights_that_it_always_had(model):
    if model in PACKAGES:
        pytest.importorskip(PACKAGES[model])
    env = ViTPatchSelectEnv(**{**TINY, "model": model})
    env.reset(seed=3)
    assert digest(env) == WEIGHTS[model]


@pytest.mark.parametrize("variant", VARIANTS)
def test_threads_get_the_runs_of_their_seeds(variant):
    if variant in PACKAGES:
        pytest.importorskip(PACKAGES[variant])
    kwargs = VARIANTS[variant]
    expected = [run(seed, **kwargs) for seed in range(6)]
    before = torch.get_rng_state(), torch.get_default_dtype()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seed: run(seed, **kwargs), range(6))) == expected
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_default_dtype() == before[1]


@pytest.mark.parametrize("variant", ["simple_vit", "patch_dropout"])
def test_a_thread_that_draws_from_the_global_generator_is_not_disturbed(variant):
    if variant in PACKAGES:
        pytest.importorskip(PACKAGES[variant])
    torch.manual_seed(0)
    expected = [torch.rand(1).item() for _ in range(300)]
    torch.manual_seed(0)
    drawn, done = [], threading.Event()

    def draw():
        while len(drawn) < 300 and not done.wait(0.0002):
            drawn.append(torch.rand(1).item())

    thread = threading.Thread(target=draw)
    thread.start()
    for seed in range(10):
        run(seed, **VARIANTS[variant])
    thread.join(0.5)
    done.set()
    thread.join()
    assert len(drawn) > 10
    assert drawn == expected[: len(drawn)]


def test_a_users_model_may_seed_the_global_generator():
    def model(n_classes, channels):
        torch.manual_seed(7)
        return own_model(n_classes, channels)

    before = torch.get_rng_state()
    digests = {run(seed, model=model)[0] for seed in (1, 2)}
    assert len(digests) == 1
    assert torch.equal(torch.get_rng_state(), before)
