"""A sound decision process: ends, penalties and observations that values can be learned from."""

import math
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from torch import nn

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.names import RewardName
from vit_patch_env.observation import standardized_attention
from vit_patch_env.reward import REWARDS, RunSoFar, StepOutcome, divergence_reward

VALIDATION = {"reward": "validation", "reward_every": 2, "observation": "attention_output+run"}


def run_to_the_end(env, seed=0):
    env.reset(seed=seed)
    rewards, ended = [], False
    while not ended:
        _, reward, terminated, truncated, info = env.step(np.ones(env.unwrapped.n_patches))
        rewards.append(reward)
        ended = terminated or truncated
    return rewards, terminated, truncated, info


@pytest.mark.parametrize(
    "budget", [{}, {"budget": "flops"}, {"budget": "seconds", "seconds": 0.05}]
)
def test_the_end_of_a_budget_is_what_was_asked_for(budget):
    for end in ("truncated", "terminated"):
        env = ViTPatchSelectEnv(**TINY | budget, budget_end=end)
        _, terminated, truncated, info = run_to_the_end(env)
        assert (terminated, truncated) == (end == "terminated", end == "truncated")
        assert info["progress"] >= 1
        assert "val_loss" in info
        with pytest.raises(gym.error.ResetNeeded):
            env.step(np.ones(env.n_patches))


def test_the_end_changes_nothing_else():
    ends = ("truncated", "terminated")
    runs = [run_to_the_end(ViTPatchSelectEnv(**TINY, budget_end=end)) for end in ends]
    assert runs[0][0] == runs[1][0]
    assert runs[0][3] == runs[1][3]


class FixedValue(nn.Module):
    """Says that every state is worth the same."""

    def forward(self, features):
        return torch.full((len(features), 1), 7.0)


@pytest.mark.parametrize("end", ["truncated", "terminated"])
def test_the_return_that_an_agent_learns_is_the_true_one_where_the_budget_terminates(end):
    """Without discounting, the target of the first state's value is the sum of all rewards."""
    env = ViTPatchSelectEnv(**TINY | VALIDATION, budget_end=end)
    env_steps = env.max_steps
    agent = PPO(
        "MlpPolicy", env, n_steps=env_steps, batch_size=env_steps, n_epochs=1, gamma=1.0,
        gae_lambda=1.0, seed=0, device="cpu",
    )  # fmt: skip
    agent.policy.value_net = FixedValue()
    agent.learn(env_steps)
    episode = env.last_episode
    losses = (episode._initial_val_loss, episode._val_loss)
    truth = losses[0] - losses[1]
    learned = float(agent.rollout_buffer.returns[0, 0])
    # A truncated end is worth what the agent guesses of states that never come.
    assert learned == pytest.approx(truth + (7.0 if end == "truncated" else 0.0), abs=1e-5)


def simulated(name, losses, n_selected, n_patches=16, n_desired=10):
    """The return of a run with these losses."""
    mean, total = losses[0], 0.0
    for loss, n in zip(losses, n_selected, strict=True):
        total += REWARDS[name](
            StepOutcome(
                loss, losses[0], mean, n, n_desired, n_patches, 0.2, flops_share=n / n_patches,
                val_loss_decrease=losses[0] / len(losses) - 2 * losses[0] / len(losses),
            )
        )  # fmt: skip
        mean += 0.1 * (loss - mean)
    return total


@pytest.mark.parametrize("name", list(REWARDS))
@pytest.mark.parametrize("n_steps", [1, 20, 80, 2000])
def test_a_diverged_run_returns_less_than_any_healthy_one(name: RewardName, n_steps):
    rng = np.random.default_rng(0)
    first = 2.5
    healthy = []
    for patches in ("one", "all", "random"):
        for trend in (np.full(n_steps, 2 * first), first * rng.uniform(0, 2, n_steps)):
            losses = np.concatenate(([first], trend[1:]))
            numbers = {"one": np.ones, "all": lambda n: np.full(n, 16)}.get(
                patches, lambda n: rng.integers(1, 17, n)
            )(n_steps)
            healthy.append(simulated(name, losses, numbers.astype(int).tolist()))
    for returned in (-50.0, 0.0, 300.0):  # by the steps before the divergence
        run = RunSoFar(name, returned, n_steps, first, first, 10, 16, 0.2)
        penalty = divergence_reward(run)
        assert penalty <= -100
        assert returned + penalty < min(healthy)


@pytest.mark.parametrize("budget", [{}, {"budget": "flops"}, {"budget": "seconds", "seconds": 60}])
@pytest.mark.parametrize("name", list(REWARDS))
def test_the_environment_gives_that_penalty(name, budget):
    env = ViTPatchSelectEnv(
        **TINY | budget | {"reward": name, "observation": "attention_output+run"}
    )
    env.reset(seed=0)
    returned = sum(env.step(np.ones(env.n_patches))[1] for _ in range(3))
    with torch.no_grad():
        next(env.episode.model.parameters())[:] = math.nan
    _, reward, terminated, _, info = env.step(np.ones(env.n_patches))
    assert terminated
    assert info["diverged"]
    assert math.isfinite(reward)
    assert reward <= -100
    assert returned + reward <= -100


def test_standardised_attention_is_bounded_and_has_no_scale():
    for values in (torch.rand(64), torch.eye(64)[3] * 1e-4, -torch.eye(9)[0], torch.rand(2)):
        model = nn.Identity()
        model.mean_first_attention = lambda images, values=values: values
        observed = standardized_attention(model, values)
        bound = math.sqrt(len(values) - 1)
        assert observed.abs().max() <= np.float32(bound)
        assert observed.mean() == pytest.approx(0, abs=1e-6)
        assert observed.square().mean() == pytest.approx(1, abs=1e-5)
    model.mean_first_attention = lambda images: torch.full((16,), 0.3)
    assert standardized_attention(model, values).tolist() == [0.0] * 16
    model.mean_first_attention = lambda images: torch.rand(1)
    assert standardized_attention(model, values).tolist() == [0.0]


def test_standardised_observations_do_not_depend_on_what_was_observed_before():
    env = ViTPatchSelectEnv(**TINY | {"observation": "attention_standardized"})
    first, _ = env.reset(seed=5)
    run_to_the_end(env, seed=1)
    again, _ = env.reset(seed=5)
    assert np.array_equal(first, again)
    assert first in env.observation_space
    assert first.std() == pytest.approx(1, abs=1e-4)
    assert np.isfinite(env.observation_space.high).all()


@pytest.mark.parametrize("reward", ["validation", "progress", "aic"])
def test_a_reward_that_depends_on_what_is_not_observed_is_said(reward):
    message = f"reward {reward} depends on the time and the loss of the run, which observation a"
    with pytest.warns(UserWarning, match=message) as caught:
        ViTPatchSelectEnv(**TINY | {"reward": reward})
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=message):
        gym.make("ViTPatchSelect-v0", **TINY | {"reward": reward})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for observation in ("attention_output+run", "attention_standardized+run", "none"):
            ViTPatchSelectEnv(**TINY | {"reward": reward, "observation": observation})
        ViTPatchSelectEnv(**TINY)
