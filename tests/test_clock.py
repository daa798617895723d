"""Budgets whose length is not a number of steps, in scripts that do not know of them."""

import json
from typing import get_args

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO

from tests.conftest import OBSERVED, TINY
from vit_patch_env import CountAction, TopKAction
from vit_patch_env.agents import FixedRule
from vit_patch_env.experiments import TrainingMonitor
from vit_patch_env.names import ModelName, RewardName
from vit_patch_env.training.run_costs import RunCosts

SECONDS = {"budget": "seconds", "seconds": 5}


def make(**kwargs):
    return gym.make("ViTPatchSelect-v0", **{**TINY, **kwargs})


@pytest.mark.long
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


@pytest.mark.one_in(3)
@pytest.mark.parametrize("reward", ["paper", "progress"])
@pytest.mark.parametrize("n_keep", [1, 16])
@pytest.mark.parametrize("budget", ["epochs", "flops"])
def test_learning_for_max_steps_finishes_an_episode(budget, n_keep, reward):
    env = make(budget=budget, epochs=1, reward=reward)
    monitor = TrainingMonitor(max_episodes=1)
    agent = FixedRule("random", env, n_keep=n_keep, seed=0)
    agent.learn(env.unwrapped.max_steps, callback=monitor)
    assert env.unwrapped.last_episode.run.progress == 1
    assert agent.num_timesteps <= env.unwrapped.max_steps


EVERYTHING_CHARGED = {
    "observation": "attention_output+run", "reward": "validation", "reward_every": 3
}  # fmt: skip

VARIANTS = [
    *({"model": name, "depth": 2, **EVERYTHING_CHARGED} for name in get_args(ModelName)),
    *({"model": name} for name in get_args(ModelName) if name != "simple_vit"),
    *(
        {"observation": observation, "reward": reward, "reward_every": 3}
        for observation in OBSERVED
        for reward in get_args(RewardName)
    ),
]


def episode_length(env, n_selected):
    env.reset(seed=0)
    action = (np.arange(env.n_patches) < n_selected).astype(np.int8)
    n_steps = 1
    while not env.step(action)[3]:
        n_steps += 1
    return n_steps


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:reward .* depends on the time and the loss:UserWarning")
@pytest.mark.parametrize("kwargs", VARIANTS, ids=lambda kwargs: "-".join(map(str, kwargs.values())))
def test_the_steps_of_a_budget_of_flops_are_known_whatever_is_charged(kwargs):
    env = make(
        **{"budget": "flops", "epochs": 1, "patch_size": 16, "n_patches_desired": 3} | kwargs
    )
    env = env.unwrapped
    longest = episode_length(env, 1)
    assert longest <= env.max_steps <= 1.05 * longest + 1
    assert env.expected_steps == pytest.approx(episode_length(env, 3), rel=0.03, abs=1)


def charged_steps(total, step, measurement, every):
    """Step by step."""
    used, n_steps = measurement, 0
    while n_steps == 0 or used < total:
        n_steps += 1
        used += step
        if n_steps % every == 0:
            used += measurement
    return n_steps


class Charged:
    """A meter of a model that costs so much."""

    model = None

    def __init__(self, step, validation):
        self.costs = {"train": step, "observe": 0, "validate": validation}

    def flops(self, work, images, purpose):
        return self.costs[work.name]


@given(st.integers(1, 3000), st.integers(1, 40), st.integers(0, 60), st.integers(1, 9))
def test_steps_are_counted_as_they_are_charged(total, step, measurement, every):
    costs = RunCosts(
        Charged(step, measurement), torch.zeros(4, 1), n_patches=1, validation_images=4, every=every
    )
    assert costs.most_steps(total) == charged_steps(total, step, measurement, every)
    assert abs(costs.expected_steps(total, 1) - costs.most_steps(total)) <= 1


def test_max_steps_suffice_with_a_budget_of_seconds():
    env = make(budget="seconds", seconds=0.1)
    agent = PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu")
    agent.learn(env.unwrapped.max_steps, callback=TrainingMonitor(max_episodes=1))
    assert env.unwrapped.last_episode.run.progress == 1


def test_the_info_of_reset_has_dtypes_and_that_of_step_is_plain():
    env = make(observation="none+run")
    _, info = env.reset(seed=0)
    step_info = env.step(np.ones(16))[-1]
    dtypes = {name: value.dtype for name, value in info.items()}
    numbers = ("epoch", "budget_steps", "n_images", "n_classes", "n_patches", "n_parameters")
    assert dtypes == {
        **dict.fromkeys(numbers, np.int64), "progress": np.float64, "step_costs": np.float64
    }  # fmt: skip
    assert json.loads(json.dumps(step_info))["progress"] == 1 / 14
