"""The environment trains in the same way whatever torch state its caller has set."""

import itertools
import threading
import warnings
from contextlib import contextmanager

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from tests.conftest import TINY
from vit_patch_env import SimpleViT, ViTPatchSelectEnv, load_dataset
from vit_patch_env.agents import FixedRule, MultiOutputDQN, PatchBandit
from vit_patch_env.system.torch_state import DrawingFrom, float32_by_default, own_torch_state
from vit_patch_env.training.evaluation import sum_of_losses


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        assert torch.get_default_dtype() == dtype
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        assert torch.get_default_device().type == device
        torch.set_default_device(None)


@contextmanager
def gradients_off():
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        assert not torch.is_grad_enabled()
        torch.set_grad_enabled(True)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def bf16_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield
        assert torch.is_autocast_enabled("cpu")


@contextmanager
def anomalies_detected():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Anomaly Detection has been enabled")
        detecting = torch.autograd.set_detect_anomaly(True)
    with detecting:
        yield
        assert torch.is_anomaly_enabled()


STATES = {
    "no_grad": torch.no_grad,
    "set_grad_enabled": gradients_off,
    "inference_mode": torch.inference_mode,
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    # Without values, so that reading a tensor that is created there raises an error.
    "meta device": lambda: default_device("meta"),
    "autocast": bf16_autocast,
    "autocast off": lambda: torch.autocast("cpu", enabled=False),
    "deterministic": deterministic,
    "anomalies detected": anomalies_detected,
}


def own_model(n_classes, channels):
    """A user's model, which draws and computes in torch's default type."""

    class Scaled(SimpleViT):
        def forward(self, images, keep=None):
            return super().forward(images, keep) * torch.linspace(0.5, 1, 1)

    return Scaled(
        n_classes=n_classes, channels=channels, patch_size=8, dim=16, depth=1, heads=2,
        dim_head=8, mlp_dim=16,
    )  # fmt: skip


VARIANTS = {
    "paper": {},
    "bf16": {"precision": "bf16"},
    "flops": {"budget": "flops", "reward": "validation", "reward_every": 2},
    "progress": {"observation": "attention_received+run", "reward": "progress"},
    "vit": {"model": "vit"},
    "ats_vit": {"model": "ats_vit", "budget": "flops"},
    "evit": {"model": "evit"},
    "tome": {"model": "tome", "precision": "bf16"},
    "token_expansion": {"model": "token_expansion"},
    "patch_merger": {"model": "patch_merger"},
    "patch_dropout": {"model": "patch_dropout"},
    "own": {"model": own_model},
    "augmented": {"augment": "randaugment", "mixup": 0.2, "cutmix": 0.2, "random_erasing": 0.3},
}

PACKAGES = {"patch_merger": "vit_pytorch", "patch_dropout": "timm"}


def run(n_steps=2, **kwargs):
    """Observations, rewards, metrics and weights of a new environment."""
    env = ViTPatchSelectEnv(**{**TINY, **kwargs})
    rng = np.random.default_rng(0)
    seen = [env.reset(seed=3)[0]]
    for _ in range(n_steps):
        observation, reward, *_ = env.step(rng.random(16) < 0.5)
        seen += [observation, np.float64(reward)]
        seen.append(np.array(env.evaluate("val")))
    seen += [weight.detach().numpy() for weight in env.episode.model.parameters()]
    return seen, env.episode.flops()


EXPECTED = {}


@pytest.mark.one_in(20)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("state", STATES)
def test_a_run_is_the_same_in_any_torch_state(state, variant):
    kwargs = VARIANTS[variant]
    if variant in PACKAGES:
        pytest.importorskip(PACKAGES[variant])
    if variant == "own" and state == "meta device":
        pytest.skip("a user's model creates its tensors where the user says")
    if variant not in EXPECTED:
        EXPECTED[variant] = run(**kwargs)
    expected, flops = EXPECTED[variant]
    with STATES[state]():
        seen, flops_seen = run(**kwargs)
    assert len(seen) == len(expected)
    for one, other in zip(seen, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert flops_seen == flops


@pytest.mark.long
@pytest.mark.parametrize("state", STATES)
def test_a_run_may_change_between_states(state, tmp_path):
    """Made, saved and loaded in one state, and continued in another."""
    actions = np.random.default_rng(0).random((6, 16)) < 0.5
    plain, env = (ViTPatchSelectEnv(**TINY) for _ in range(2))
    plain.reset(seed=1)
    expected = [plain.step(action)[:2] for action in actions]
    with STATES[state]():
        env.reset(seed=1)
        env.step(actions[0])
        env.render()
    env.step(actions[1])
    with STATES[state]():
        env.step(actions[2])
        env.save(tmp_path / "run")
        other = ViTPatchSelectEnv(**TINY)
        other.load(tmp_path / "run")
    for env_of_two in (env, other):
        for action, (observation, reward) in zip(actions[3:], expected[3:], strict=True):
            step = env_of_two.step(action)
            assert np.array_equal(step[0], observation)
            assert step[1] == reward


@pytest.mark.parametrize("state", ["no_grad", "inference_mode", "anomalies detected"])
def test_a_run_that_diverges_is_terminated(state):
    env = ViTPatchSelectEnv(**TINY, learning_rate=1e30)
    with STATES[state]():
        env.reset(seed=0)
        terminated = False
        while not terminated:
            *_, terminated, truncated, info = env.step(np.ones(16))
            assert not truncated
    assert info["diverged"]


@pytest.mark.long
@pytest.mark.parametrize("state", STATES)
def test_images_that_were_loaded_in_any_state_are_trained_on(state):
    expected, _ = run(dataset=load_dataset("synthetic"))
    with STATES[state]():
        data = load_dataset("synthetic")
    seen, _ = run(dataset=data)
    assert all(np.array_equal(one, other) for one, other in zip(seen, expected, strict=True))


@pytest.mark.long
@pytest.mark.parametrize("state", ["no_grad", "inference_mode", "float64"])
def test_gymnasiums_checker_passes(state):
    with STATES[state]():
        check_env(gym.make("ViTPatchSelect-v0", **TINY).unwrapped)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["random", "bandit", "dqn"])
@pytest.mark.parametrize("state", ["no_grad", "inference_mode", "float64"])
def test_agents_predict_the_same_patches(kind, state):
    env = ViTPatchSelectEnv(**{**TINY, "observation": "attention_output+run"})
    agent = {
        "random": lambda: FixedRule("random", env, n_keep=4, seed=0),
        "bandit": lambda: PatchBandit("BanditPolicy", env, seed=0),
        "dqn": lambda: MultiOutputDQN("MlpPolicy", env, seed=0, learning_starts=4),
    }[kind]()
    agent.learn(14)
    expected = env.last_episode.evaluate("val", selector=agent)
    with STATES[state]():
        assert env.last_episode.evaluate("val", selector=agent) == expected


def test_a_selector_is_asked_in_the_callers_state():
    class Selector:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            seen.append((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
            return np.ones(16, dtype=np.int8), None

    seen = []
    env = ViTPatchSelectEnv(**TINY)
    env.reset(seed=0)
    with torch.inference_mode(), bf16_autocast():
        env.evaluate("val", selector=Selector())
    assert seen == [(True, True)]


def test_the_callers_state_returns_after_an_error():
    model = torch.nn.Identity()
    with (
        torch.inference_mode(), default_dtype(torch.float64), bf16_autocast(), anomalies_detected()
    ):  # fmt: skip
        with own_torch_state(model=model):
            assert torch.get_default_dtype() == torch.float32
            assert torch.is_grad_enabled()
            assert not torch.is_anomaly_enabled()
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
        with pytest.raises(KeyError), own_torch_state(model=model):
            raise KeyError
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()


def test_the_default_type_returns_when_the_last_thread_is_done():
    """Also if the first one leaves before the others."""
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with float32_by_default:
            entered.set()
            leave.wait(10)

    with default_dtype(torch.float64):
        thread = threading.Thread(target=hold)
        with float32_by_default:
            thread.start()
            assert entered.wait(10)
        assert torch.get_default_dtype() == torch.float32
        leave.set()
        thread.join(10)


def test_a_default_type_that_is_set_meanwhile_is_kept():
    with default_dtype(torch.float64):
        with float32_by_default:
            torch.set_default_dtype(torch.bfloat16)
        assert torch.get_default_dtype() == torch.bfloat16
        with float32_by_default:
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.bfloat16
        torch.set_default_dtype(torch.float64)


def test_a_default_type_that_is_set_meanwhile_is_not_that_of_a_thread_that_enters_later():
    seen = []

    def enter():
        with float32_by_default:
            seen.append(torch.get_default_dtype())

    with default_dtype(torch.bfloat16):
        torch.set_default_dtype(torch.float32)
        with float32_by_default:
            torch.set_default_dtype(torch.bfloat16)
            thread = threading.Thread(target=enter)
            thread.start()
            thread.join()
    assert seen == [torch.float32]


def test_steps_of_own_models_leave_the_default_type_alone():
    """A change of it that a caller's thread makes meanwhile cannot be lost."""
    env = ViTPatchSelectEnv(**{**TINY, "reward": "validation", "reward_every": 1})
    seen = []
    with default_dtype(torch.float64):
        env.reset(seed=0)
        hook = lambda *_: seen.append(torch.get_default_dtype())  # noqa: E731
        env.episode.model.embedding.register_forward_hook(hook)
        env.step(np.ones(16))
        env.evaluate("val")
    assert len(seen) > 3
    assert set(seen) == {torch.float64}


def test_functions_without_a_generator_draw_from_the_given_one():
    draws = {
        "rand": lambda: torch.rand(3),
        "randn": lambda: torch.randn(3),
        "randint": lambda: torch.randint(5, (3,)),
        "randint from": lambda: torch.randint(2, 5, (3,)),
        "randperm": lambda: torch.randperm(5),
        "normal_": lambda: torch.empty(3).normal_(),
        "dropout": lambda: torch.dropout(torch.ones(5), 0.5, train=True),
        "layer": lambda: torch.nn.Linear(2, 3).weight.detach(),
        "embedding": lambda: torch.nn.Embedding(2, 3).weight.detach(),
        "trunc_normal_": lambda: torch.nn.init.trunc_normal_(torch.empty(3)),
        "linspace": lambda: torch.linspace(0, 1, 7),
    }
    for (name, draw), dtype in itertools.product(draws.items(), (torch.float32, torch.float64)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            expected = draw()
        before = torch.get_rng_state()
        with default_dtype(dtype), DrawingFrom(torch.Generator().manual_seed(7)):
            drawn = draw()
            torch.empty(3, device="meta").uniform_()  # no values, no generator
            assert torch.empty(1, dtype=torch.float64).dtype == torch.float64
        assert drawn.dtype == expected.dtype
        assert torch.equal(drawn, expected), name
        assert torch.equal(torch.get_rng_state(), before), name


def test_losses_are_measured_without_gradients(tiny_env):
    tiny_env.reset(seed=0)
    run = tiny_env.episode.run
    weights = list(tiny_env.episode.model.parameters())
    assert sum_of_losses(run.trainer.model, [run.batch], run.trainer.precision) > 0
    assert not run.observe(run.batch.images).requires_grad
    assert all(weight.grad is None for weight in weights)
