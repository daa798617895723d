"""Schedules of learning follow the run's budget, however many steps it turns out to have."""

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO

from tests.conftest import TINY
from vit_patch_env import CountAction, ViTPatchSelectEnv
from vit_patch_env.agents import MultiOutputDQN
from vit_patch_env.experiments import TrainingMonitor

BUDGETS = {
    "epochs": {"epochs": 4},
    "flops": {"budget": "flops", "epochs": 4},
    "seconds": {"budget": "seconds", "seconds": 0.4},
}


def make(budget):
    return ViTPatchSelectEnv(**TINY | BUDGETS[budget])


def dqn(env, **kwargs):
    return DQN("MlpPolicy", CountAction(env), learning_starts=1, seed=0, device="cpu", **kwargs)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("budget", BUDGETS)
def test_exploration_ends_within_the_run(budget):
    env = make(budget)
    agent = dqn(env, exploration_fraction=0.5)
    rates = []
    monitor = TrainingMonitor(
        max_episodes=1, on_step=lambda step: rates.append((step.info["progress"], step.epsilon))
    )
    agent.learn(env.max_steps, callback=monitor)
    assert agent.exploration_rate == pytest.approx(0.05)
    # Read in the callback, when it is that of the step before.
    of_the_step_before = [epsilon for _, epsilon in rates[1:]]
    expected = [max(1 - 0.95 * progress / 0.5, 0.05) for progress, _ in rates[:-1]]
    assert of_the_step_before == pytest.approx(expected)


@pytest.mark.long
def test_schedules_span_all_the_runs_that_are_monitored():
    env = make("flops")
    agent = dqn(env, exploration_fraction=1.0)
    rates = []
    monitor = TrainingMonitor(max_episodes=2, on_epoch=lambda epoch: rates.append(epoch.epsilon))
    agent.learn(10**6, callback=monitor)
    assert rates == sorted(rates, reverse=True)
    assert rates[len(rates) // 2] == pytest.approx(0.5, abs=0.15)
    assert rates[-1] < 0.1


def test_fewer_steps_than_a_run_has_are_the_schedules_length():
    agent = dqn(make("epochs"), exploration_fraction=1.0)
    agent.learn(14, callback=TrainingMonitor(max_episodes=1))
    assert agent.exploration_rate == pytest.approx(0.05)


def test_learning_rates_follow_the_budget():
    seen = []
    env = make("flops")
    agent = PPO(
        "MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, device="cpu", seed=0,
        learning_rate=lambda remaining: seen.append(remaining) or 1e-3,
    )  # fmt: skip
    agent.learn(env.max_steps, callback=TrainingMonitor(max_episodes=1))
    assert seen[0] == 1
    assert seen[-1] < 0.5
    assert seen == sorted(seen, reverse=True)


def test_the_agent_is_of_its_class_again_after_learning_and_in_its_file(tmp_path):
    env = make("flops")
    agent = dqn(env)
    during = []

    def on_step(_):
        during.append(type(agent))
        agent.save(tmp_path / "agent.zip")

    agent.learn(env.max_steps, callback=TrainingMonitor(max_episodes=1, on_step=on_step))
    assert {kind.__qualname__ for kind in during} == {"DQN"}
    assert type(agent) is DQN
    assert type(DQN.load(tmp_path / "agent.zip", device="cpu")) is DQN
    agent.learn(4)
    assert agent._current_progress_remaining == 0


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_papers_exploration_decays_within_the_expected_steps(budget):
    env = make(budget)
    agent = MultiOutputDQN("MlpPolicy", env, seed=0, learning_starts=4)
    agent.learn(env.max_steps, callback=lambda *_: False)
    assert agent.exploration_decay_steps == pytest.approx(20_000 / 39_000 * env.expected_steps)
    agent.learn(3 * env.max_steps if budget != "seconds" else env.max_steps, lambda *_: False)
    n_runs = 1 if budget == "seconds" else 3
    assert agent.exploration_decay_steps == pytest.approx(
        20_000 / 39_000 * env.expected_steps * n_runs
    )
    agent.learn(10, callback=lambda *_: False)
    assert agent.exploration_decay_steps == pytest.approx(20_000 / 39_000 * 10)


def test_a_time_constant_that_is_assigned_or_loaded_stays(tmp_path):
    env = make("epochs")
    agent = MultiOutputDQN("MlpPolicy", env, seed=0, learning_starts=4)
    agent.save(tmp_path / "agent.zip")
    loaded = MultiOutputDQN.load(tmp_path / "agent.zip", env=env, exploration_decay_steps=500)
    assert loaded.learn(9).exploration_decay_steps == 500
    agent.exploration_decay_steps = 1.0
    agent.learn(10)
    assert agent.exploration_decay_steps == 1
    assert agent.exploration_rate == pytest.approx(0.01 + 0.99 * np.exp(-10))
    assert MultiOutputDQN.load(tmp_path / "agent.zip", env=env).learn(9).exploration_decay_steps < 5
