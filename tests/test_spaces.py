"""The bounds of every observation are those of its values."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RescaleObservation
from stable_baselines3 import PPO

from tests.conftest import OBSERVED, TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import FixedRule, MultiOutputDQN


@pytest.mark.parametrize("name", OBSERVED)
def test_bounds_are_true_or_infinite(name):
    env = ViTPatchSelectEnv(**TINY | {"observation": name})
    box = env.observation_space
    for bound in (box.low, box.high):
        assert (np.isinf(bound) | (np.abs(bound) <= np.float32(np.sqrt(15)))).all()
    sample = box.sample()
    assert sample in box
    assert np.abs(sample).max() < 100
    seen, _ = env.reset(seed=0)
    assert seen in box
    assert env.step(np.ones(16))[0] in box


@pytest.mark.parametrize("name", ["attention_output", "attention_received+run"])
def test_an_unbounded_observation_cannot_be_rescaled(name):
    env = gym.make("ViTPatchSelect-v0", **TINY, observation=name)
    with pytest.raises(Exception, match=r"(?i)bound|inf"):
        RescaleObservation(env, -1, 1)


def test_a_bounded_observation_is_rescaled():
    env = RescaleObservation(
        gym.make("ViTPatchSelect-v0", **TINY, observation="attention_received"),
        np.float32(-1),
        np.float32(1),
    )
    seen, _ = env.reset(seed=0)
    assert len(np.unique(seen)) > 8


def old_bounds(env):
    largest = np.finfo(np.float32).max
    box = env.observation_space
    bounds = [np.clip(bound, -largest, largest) for bound in (box.low, box.high)]
    return gym.spaces.Box(*bounds, dtype=np.float32)


@pytest.mark.parametrize("name", ["attention_output", "none+run"])
def test_agents_of_this_package_that_were_saved_with_the_former_bounds_load(name, tmp_path):
    env = ViTPatchSelectEnv(**TINY | {"observation": name})
    for make in (
        lambda env: FixedRule("random", env, n_keep=4, seed=0),
        lambda env: MultiOutputDQN("MlpPolicy", env, seed=0),
    ):
        agent = make(env)
        agent.observation_space = old_bounds(env)
        agent.save(tmp_path / "agent.zip")
        loaded = type(agent).load(tmp_path / "agent.zip", env=env)
        assert loaded.observation_space == env.observation_space


def test_other_agents_load_with_the_present_space(tmp_path):
    env = ViTPatchSelectEnv(**TINY)
    agent = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")
    agent.observation_space = old_bounds(env)
    agent.save(tmp_path / "agent.zip")
    PPO.load(
        tmp_path / "agent.zip",
        env=env,
        device="cpu",
        custom_objects={"observation_space": env.observation_space},
    )
