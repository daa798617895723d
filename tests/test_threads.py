"""Environments in several threads do not disturb each other, nor the threads beside them."""

import hashlib
import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from vit_patch_env import SimpleViT, ViTPatchSelectEnv
from vit_patch_env.system.torch_state import float32_by_default

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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.fixture
def default_type_restored():
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.long
@pytest.mark.usefixtures("default_type_restored")
def test_threads_do_not_depend_on_the_default_type_that_another_sets():
    """The ViTs are made, trained and observed while it changes."""
    envs = [ViTPatchSelectEnv(**TINY) for _ in range(3)]
    assert all(env.budget_steps for env in envs)  # their images are loaded

    def trained(env):
        digests = []
        for seed in range(8):
            env.reset(seed=seed)
            env.step(np.arange(16) % 2)
            digests.append((digest(env), env.evaluate("val")))
        return digests

    expected = trained(ViTPatchSelectEnv(**TINY))
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(trained, env) for env in envs]
        chosen = itertools.cycle((torch.float64, torch.bfloat16, torch.float32))
        while not all(run.done() for run in runs):
            torch.set_default_dtype(next(chosen))
            time.sleep(0.001)
    assert [run.result() for run in runs] == [expected] * 3


class Waiting(SimpleViT):
    """A user's model, in the middle of whose step something else happens."""

    meanwhile = staticmethod(lambda: None)

    def __init__(self, n_classes, channels):
        super().__init__(
            n_classes=n_classes, channels=channels, patch_size=8, dim=16, depth=1, heads=2,
            dim_head=8, mlp_dim=16,
        )  # fmt: skip

    def forward(self, images, keep=None):
        self.meanwhile()
        return super().forward(images, keep)


def in_a_step(monkeypatch, meanwhile, **kwargs):
    """Another thread takes a step, during which something happens in this one."""
    env = ViTPatchSelectEnv(**{**TINY, **kwargs})
    env.reset(seed=0)
    inside, leave = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        assert leave.wait(30)

    if isinstance(env.episode.model, Waiting):
        monkeypatch.setattr(Waiting, "meanwhile", staticmethod(wait))
    else:
        env.episode.model.norm.register_forward_hook(wait)
    thread = threading.Thread(target=env.step, args=(np.ones(16),))
    thread.start()
    try:
        assert inside.wait(30)
        return meanwhile()
    finally:
        leave.set()
        thread.join()


@pytest.mark.usefixtures("default_type_restored")
@pytest.mark.parametrize("before", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", ["simple_vit", Waiting])
def test_a_default_type_that_is_set_during_a_step_is_kept(model, before, monkeypatch):
    torch.set_default_dtype(before)
    in_a_step(monkeypatch, lambda: torch.set_default_dtype(torch.bfloat16), model=model)
    assert torch.get_default_dtype() == torch.bfloat16


@pytest.mark.usefixtures("default_type_restored")
@pytest.mark.parametrize("model", ["simple_vit", Waiting])
def test_what_another_thread_sees_of_a_step(model, monkeypatch):
    """float32 as the default type during a step of a user's model, as documented."""
    torch.set_default_dtype(torch.float64)
    seen = in_a_step(monkeypatch, torch.get_default_dtype, model=model)
    assert seen == (torch.float64 if model == "simple_vit" else torch.float32)
    assert torch.get_default_dtype() == torch.float64


@pytest.mark.usefixtures("default_type_restored")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_is_forked_during_a_step_has_the_settings_of_the_caller(monkeypatch):
    def settings():
        return torch.get_default_dtype() == torch.float64 and torch.is_anomaly_enabled()

    def forked():
        child = os.fork()
        if not child:
            os._exit(0 if settings() else 1)
        return os.waitpid(child, 0)[1]

    torch.set_default_dtype(torch.float64)
    torch.set_anomaly_enabled(True)
    try:
        assert in_a_step(monkeypatch, forked, model=Waiting) == 0
        assert settings()
    finally:
        torch.set_anomaly_enabled(False)


@pytest.mark.usefixtures("default_type_restored")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_a_step_forks_has_the_settings_of_the_caller_after_the_step():
    torch.set_default_dtype(torch.float64)
    with float32_by_default:
        child = os.fork()
        within = torch.get_default_dtype()
    if not child:
        after = torch.get_default_dtype()
        os._exit(0 if (within, after) == (torch.float32, torch.float64) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_users_model_may_seed_the_global_generator():
    def model(n_classes, channels):
        torch.manual_seed(7)
        return own_model(n_classes, channels)

    before = torch.get_rng_state()
    digests = {run(seed, model=model)[0] for seed in (1, 2)}
    assert len(digests) == 1
    assert torch.equal(torch.get_rng_state(), before)
