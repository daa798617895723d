"""Budgets whose length is not a number of steps, in scripts that do not know of them."""

import json
from typing import get_args

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO

from tests.conftest import TINY
from vit_patch_env import CountAction, TopKAction
from vit_patch_env.agents import FixedRule
from vit_patch_env.experiments import TrainingMonitor
from vit_patch_env.names import ModelName

SECONDS = {"budget": "seconds", "seconds": 5}


def make(**kwargs):
    return gym.make("ViTPatchSelect-v0", **{**TINY, **kwargs})


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version:UserWarning")
@pytest.mark.parametrize("wrap", [lambda env: env.unwrapped, CountAction, TopKAction])
@pytest.mark.parametrize("observation", ["attention_output", "none+run"])
def test_gymnasiums_checks_pass_with_a_budget_of_seconds(wrap, observation):
    check_env(wrap(make(**SECONDS, observation=observation)))


@pytest.mark.parametrize("budget", [SECONDS, {"budget": "epochs"}, {"budget": "flops"}])
def test_only_the_clock_makes_the_environment_nondeterministic(budget):
    env = CountAction(make(**budget))
    assert env.spec.nondeterministic == (budget is SECONDS)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    assert gym.spec("ViTPatchSelect-v0").nondeterministic is False


def test_an_environment_of_the_class_itself_has_no_spec():
    assert type(make().unwrapped)(**TINY).spec is None


@pytest.mark.parametrize("budget", ["epochs", "flops"])
@pytest.mark.parametrize("n_keep", [1, 16])
@pytest.mark.parametrize("reward", ["paper", "progress"])
def test_learning_for_max_steps_finishes_an_episode(budget, n_keep, reward):
    env = make(budget=budget, epochs=1, reward=reward)
    monitor = TrainingMonitor(max_episodes=1)
    agent = FixedRule("random", env, n_keep=n_keep, seed=0)
    agent.learn(env.unwrapped.max_steps, callback=monitor)
    assert env.unwrapped.last_episode.run.progress == 1
    assert agent.num_timesteps <= env.unwrapped.max_steps


@pytest.mark.parametrize("model", get_args(ModelName))
def test_max_steps_suffice_for_every_model(model):
    env = make(model=model, budget="flops", epochs=1, patch_size=16, n_patches_desired=1).unwrapped
    env.reset(seed=0)
    only_one = np.eye(4, dtype=np.int8)[0]
    n_steps = 1
    while not env.step(only_one)[3]:
        n_steps += 1
    assert n_steps <= env.max_steps


def test_max_steps_suffice_with_a_budget_of_seconds():
    env = make(budget="seconds", seconds=0.1)
    agent = PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu")
    agent.learn(env.unwrapped.max_steps, callback=TrainingMonitor(max_episodes=1))
    assert env.unwrapped.last_episode.run.progress == 1


def test_the_info_of_reset_has_dtypes_and_that_of_step_is_plain():
    env = make()
    _, info = env.reset(seed=0)
    step_info = env.step(np.ones(16))[-1]
    dtypes = {name: value.dtype for name, value in info.items()}
    assert dtypes == {"epoch": np.int64, "progress": np.float64, "budget_steps": np.int64}
    assert json.loads(json.dumps(step_info))["progress"] == 1 / 14
