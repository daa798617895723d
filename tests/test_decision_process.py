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
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.names import RewardName
from vit_patch_env.observation import standardized_attention
from vit_patch_env.penalty import (
    DIVERGED_REWARD,
    RunSoFar,
    divergence_reward,
    lowest_return,
    most_steps,
)
from vit_patch_env.reward import REWARDS, StepOutcome
from vit_patch_env.step_kinds import (
    LEAST_SECONDS,
    kinds_in_flops,
    kinds_in_seconds,
    kinds_in_steps,
)
from vit_patch_env.training import run as training_run

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


N_PATCHES, N_DESIRED, ALPHA, FIRST = 16, 10, 0.2, 2.5


def cost(n_selected):
    """FLOPs of a step on so many patches, over those of one on all."""
    return (1 + n_selected**1.1) / (1 + N_PATCHES**1.1)


class Costs:
    """Those of steps whose FLOPs are known."""

    n_patches, of_images = N_PATCHES, False

    def least_step(self, n_patches):
        return 1000 * cost(n_patches)

    def shares(self, n_patches):
        return [cost(n_patches)]


def kinds_of(budget, n_steps):
    """The steps of a run that has so many on all patches."""
    if budget == "flops":
        return kinds_in_flops(1000 * n_steps, Costs())
    return kinds_in_steps(n_steps, Costs())


def simulated(name, budget, n_steps, losses, numbers, n_desired=N_DESIRED, alpha=ALPHA):
    """The return of a run with these losses (a function of step, running mean and FLOPs)."""
    mean, total, used, step = FIRST, 0.0, 0.0, 0
    while used < n_steps:
        n_selected = numbers[step % len(numbers)]
        loss = FIRST if step == 0 else min(losses(step, mean, cost(n_selected)), 2 * FIRST)
        last = used + (1 if budget == "epochs" else cost(n_selected)) >= n_steps
        decrease = -FIRST if name == "validation" and last else 0.0  # the loss has doubled
        total += REWARDS[name](
            StepOutcome(
                loss, FIRST, mean, n_selected, n_desired, N_PATCHES, alpha, cost(n_selected),
                decrease,
            )
        )  # fmt: skip
        step += 1
        used += 1 if budget == "epochs" else cost(n_selected)
        mean += (loss - mean) / min(step, 50)
    return total


RANDOM = np.random.default_rng(0)

LOSSES = {
    "twice the first": lambda step, mean, flops: 2 * FIRST,
    "random": lambda step, mean, flops: FIRST * RANDOM.uniform(0, 2),
    "above the mean": lambda step, mean, flops: mean * (1 + 10 * flops),
    "above the mean five times, then none": (
        lambda step, mean, flops: mean * (1 + 10 * flops) if step % 6 else 0.0
    ),
    "ten times the mean where it is low": (
        lambda step, mean, flops: 11 * mean if mean < 0.18 * FIRST else 0.0
    ),
    "above the mean on one patch, none on more": (
        lambda step, mean, flops: mean * (1 + 10 * flops) if flops < 0.1 else 0.0
    ),
    "down, and up again": lambda step, mean, flops: 0.0 if step < 60 else mean * (1 + 10 * flops),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("budget", ["epochs", "flops"])
@pytest.mark.parametrize("n_steps", [1, 20, 80, 500])
@pytest.mark.parametrize("name", list(REWARDS))
def test_a_diverged_run_returns_less_than_any_healthy_one(name: RewardName, n_steps, budget):
    numbers = ([1], [16], [3], [1, 3], [1, 16], [1, 1, 1, 1, 1, 16])
    healthy = min(
        simulated(name, budget, n_steps, losses, n) for losses in LOSSES.values() for n in numbers
    )
    for returned in (-50.0, 0.0, 300.0):  # by the steps before the divergence
        run = RunSoFar(
            name, returned, kinds_of(budget, n_steps), FIRST, FIRST, N_DESIRED, N_PATCHES, ALPHA
        )
        penalty = divergence_reward(run)
        assert penalty <= DIVERGED_REWARD
        assert returned + penalty < healthy
    # What a healthy run can lose is not guessed: it is nearly lost by one of these.
    assert lowest_return(run) > 3 * healthy - 100


def test_what_one_patch_costs_in_reward_is_not_charged_as_often_as_cheap_steps_are_possible():
    """The lowest reward is that of all patches, but there are many steps only on one."""
    kinds = kinds_of("flops", 100)
    run = RunSoFar("paper", 0.0, kinds, FIRST, FIRST, 1, N_PATCHES, 0.0)
    assert most_steps(kinds) == math.ceil(100 / cost(1)) > 1000
    assert 100 * -15 > lowest_return(run) > 2.2 * 100 * -15


def test_a_bound_for_mixed_steps_holds_for_the_worst_mixture():
    run = RunSoFar("paper", 0.0, kinds_of("flops", 50), FIRST, FIRST, 4, N_PATCHES, 0.0)
    mixtures = ([n] * m + [16] for n in range(1, 17) for m in range(20))
    worst = min(simulated("paper", "flops", 50, LOSSES["random"], n, 4, 0.0) for n in mixtures)
    assert 1.5 * worst < lowest_return(run) < worst


@pytest.fixture
def clock(clock):
    """Every look at the clock takes a millisecond."""
    clock.tick = 1e-3
    return clock


ONE, ALL = np.eye(16, dtype=np.int8)[0], np.ones(16, dtype=np.int8)


def whole_return(env, action, diverges_after=None, before_step=lambda step: None, seed=0):
    """The sum of a run's rewards, and its losses; its weights become NaN after so many steps."""
    env.reset(seed=seed)
    total, losses, ended = 0.0, [], False
    while not ended:
        before_step(len(losses))
        if len(losses) == diverges_after:
            with torch.no_grad():
                next(env.episode.model.parameters())[:] = math.nan
        _, reward, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
        total += reward
        losses.append(info["loss"])
    assert info["diverged"] == (diverges_after is not None)
    assert math.isfinite(total)
    assert diverges_after is not None or max(losses) < 2 * losses[0]
    return total, losses


def tiny(reward, budget, **more):
    budgets = {
        "epochs": {"epochs": 12},
        "flops": {"budget": "flops", "epochs": 1},
        "seconds": {"budget": "seconds", "seconds": 0.4},
    }
    more = {"observation": "none+run", "reward_every": 5, "reward": reward, **more}
    return ViTPatchSelectEnv(**TINY | budgets[budget] | more)


@pytest.mark.long
@pytest.mark.parametrize("budget", ["epochs", "flops", "seconds"])
@pytest.mark.parametrize("reward", REWARDS)
def test_the_environments_penalty_is_below_the_return_of_its_healthy_runs(reward, budget, clock):
    env = tiny(reward, budget)
    healthy = [whole_return(env, action)[0] for action in (ONE, ALL)]
    n_steps = env.steps_done
    assert budget != "epochs" or n_steps >= 80
    for action, after in ((ALL, 0), (ALL, 3), (ONE, n_steps - 1)):
        assert whole_return(env, action, after)[0] < min(healthy)


@pytest.mark.long
def test_what_was_earned_before_a_divergence_does_not_make_up_for_it():
    """With one patch desired, steps on all patches lose what those on one gain."""
    env = tiny("paper", "epochs", n_patches_desired=1, alpha=0.5)
    healthy, losses = whole_return(env, ALL)
    before = len(losses) - 1
    assert before > 80
    assert whole_return(env, ONE, before)[0] < healthy
    assert whole_return(env, ONE)[0] > 30


@pytest.mark.long
def test_a_diverged_run_returns_less_than_one_whose_validation_loss_rises(monkeypatch):
    def rising(run, batches):
        return 400.0 + 4 * run.steps_done

    monkeypatch.setattr(training_run.TrainingRun, "validation_loss", rising)
    env = tiny("validation", "epochs")
    healthy, losses = whole_return(env, ALL)
    assert healthy == -4 * len(losses) < -300
    for after in (0, 3, len(losses) - 1):
        assert whole_return(env, ALL, after)[0] < healthy


@pytest.mark.long
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_slow_start_does_not_make_the_penalty_of_a_budget_of_seconds_too_small(clock, after):
    def slow_agent(step):
        clock.now += 0.2 if step in (1, 2) else 0

    env = tiny("aic", "seconds", seconds=0.8)
    healthy, losses = whole_return(env, ALL, before_step=slow_agent)
    assert len(losses) > 30
    assert healthy < -110
    assert whole_return(env, ALL, after, slow_agent)[0] < healthy


def test_a_penalty_depends_on_the_fastest_step_also_after_an_interruption(clock):
    env, resumed = tiny("aic", "seconds"), tiny("aic", "seconds")
    env.reset(seed=0)
    for _ in range(4):
        env.step(ALL)
    resumed.load_state_dict(env.state_dict())
    assert resumed.episode._fastest == env.episode._fastest
    assert env.episode._fastest[16] > 0


def test_the_fastest_step_bounds_those_of_a_budget_of_seconds():
    env = tiny("aic", "seconds", n_patches_desired=None)
    costs = env._factory._run_costs
    unknown = kinds_in_seconds(60, {}, costs)
    assert {kind.n_steps for kind in unknown} == {60 / LEAST_SECONDS}
    kinds = kinds_in_seconds(60, {16: 1.0, 1: 0.9}, costs)
    assert kinds[-1].n_steps == 60 * 4
    share = costs.least_step(1) / costs.least_step(16)
    assert kinds[0].n_steps == pytest.approx(min(60 * 4 / share, 60 / LEAST_SECONDS))
    assert [(kind.fewest, kind.most) for kind in kinds] == [
        (1, 1), (2, 3), (4, 7), (8, 15), (16, 16)
    ]  # fmt: skip


@pytest.mark.long
def test_a_model_that_cannot_be_counted_has_a_penalty_with_a_budget_of_seconds(clock):
    class Uncopied(SimpleViT):
        def __deepcopy__(self, memo):
            raise TypeError("no copies of this model")

    def uncopied(n_classes, channels):
        return Uncopied(n_classes=n_classes, channels=channels, patch_size=8, dim=16, depth=1)

    env = tiny("aic", "seconds", model=uncopied)
    healthy, _ = whole_return(env, ALL)
    assert whole_return(env, ALL, 3)[0] < healthy


@pytest.mark.long
@pytest.mark.parametrize("model", ["ats_vit", "token_expansion"])
def test_models_that_reduce_tokens_have_a_penalty(model):
    env = tiny("progress", "flops", model=model, depth=2)
    healthy, _ = whole_return(env, ALL)
    assert whole_return(env, ALL, 3)[0] < healthy


def test_standardised_attention_is_bounded_and_has_no_scale():
    for values in (torch.rand(64), torch.eye(64)[3] * 1e-4, -torch.eye(9)[0], torch.rand(2)):
        observed = standardized_attention(values)
        bound = math.sqrt(len(values) - 1)
        assert observed.abs().max() <= np.float32(bound)
        assert observed.mean() == pytest.approx(0, abs=1e-6)
        assert observed.square().mean() == pytest.approx(1, abs=1e-5)
    assert standardized_attention(torch.full((16,), 0.3)).tolist() == [0.0] * 16
    assert standardized_attention(torch.rand(1)).tolist() == [0.0]


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
