"""TorchRL drives the environment, with what `info` says in its tensors."""

import gymnasium as gym
import pytest

from tests.conftest import TINY
from vit_patch_env import NumPyInfo

# Its C++ code may be built for another version of torch, of which it warns.
envs = pytest.importorskip("torchrl.envs", reason="needs torchrl", exc_type=ImportError)


@pytest.fixture
def wrapped():
    return envs.GymWrapper(gym.make("ViTPatchSelect-v0", **TINY))


def test_a_wrapped_environment_passes_its_checks(wrapped):
    envs.check_env_specs(wrapped)


def test_what_reset_and_step_inform_of_is_registered(wrapped):
    env = envs.GymWrapper(NumPyInfo(wrapped.env)).auto_register_info_dict()
    rollout = env.rollout(20)
    assert rollout.batch_size == (14,)
    assert rollout["next", "progress"].flatten()[-1] == 1
    assert rollout["next", "loss"].isfinite().all()


def test_an_environment_is_made_by_its_name():
    others = {name: value for name, value in TINY.items() if name not in ("batch_size", "device")}
    env = envs.GymEnv("ViTPatchSelect-v0", **others, train_batch_size=32, train_device="cpu")
    assert env.rollout(30).batch_size == (28,)
    config = env.unwrapped.config
    assert (config.batch_size, config.device) == (32, "cpu")
