"""RunCheckpoint: interrupted runs continue as if they had not been interrupted."""

from dataclasses import replace

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from tests.conftest import TINY
from tests.interrupted_runs import (
    AGENTS,
    N_STEPS,
    identical,
    learn,
    learn_logged,
    new_agent,
)
from tests.test_saving import dropout_model
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import MultiOutputDQN
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments import RunCheckpoint, TrainingMonitor
from vit_patch_env.experiments.agents_by_name.factory import make_agent
from vit_patch_env.experiments.checkpoints.snapshot import snapshot
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.runs.train import make_env

USUAL = [
    ("paper", "any"), ("schedule_bandit", "any"), ("bandit", "any"), ("dqn", "any"),
    ("ppo", "any"), ("paper", "short"),
]  # fmt: skip
"""Evaluations by default; `make faults` tests all."""


def treat_rollouts_as(monkeypatch, length):
    """Save within rollouts of any length ("any"), or consider all of them short ("short")."""
    seconds = 0.0 if length == "any" else 1000.0
    monkeypatch.setattr(
        "vit_patch_env.experiments.checkpoints.callback.LONG_ROLLOUT_SECONDS", seconds
    )


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("name", "rollouts"),
    [
        pytest.param(name, rollouts, marks=() if (name, rollouts) in USUAL else pytest.mark.long)
        for rollouts in ("any", "short")
        for name in AGENTS
    ],
)
def test_every_agent_resumes_identically(name, rollouts, tmp_path, monkeypatch):
    # "any": interrupted within a rollout; "short": at the start of the next one.
    treat_rollouts_as(monkeypatch, rollouts)
    agent, env = new_agent(name)
    expected, monitor, _ = learn(agent, tmp_path / "uninterrupted")
    assert len(expected) == N_STEPS
    for stop_at in (1, 13):
        folder = tmp_path / str(stop_at)
        first, _, checkpoint = learn(new_agent(name)[0], folder, stop_at=stop_at)
        assert checkpoint.stopped
        assert len(first) == checkpoint.saved_steps
        assert len(first) == stop_at or rollouts == "short"
        other, other_env = new_agent(name)
        steps, other_monitor, checkpoint = learn(other, folder, resume=True)
        assert checkpoint.resumed_steps == len(first)
        assert steps == expected  # the log is part of the checkpoint
        assert other_monitor.flops == monitor.flops
        assert other_monitor.n_selected_mean == monitor.n_selected_mean
        assert np.array_equal(other_monitor.selected, monitor.selected)
        metrics = [one.last_episode.evaluate("test") for one in (env, other_env)]
        assert metrics[0] == metrics[1]
        assert identical(snapshot(other.policy), snapshot(agent.policy))


@pytest.mark.long
def test_a_run_can_be_interrupted_several_times(tmp_path):
    expected, *_ = learn(new_agent("ppo")[0], tmp_path / "uninterrupted")
    for stop_at in (3, 11, 16):
        learn(new_agent("ppo")[0], tmp_path / "run", stop_at=stop_at, resume=True)
    steps, _, checkpoint = learn(new_agent("ppo")[0], tmp_path / "run", resume=True)
    assert steps == expected
    assert len(checkpoint.folder.files) <= 3


def test_resuming_a_completed_run_restores_its_end(tmp_path, monkeypatch):
    treat_rollouts_as(monkeypatch, "any")
    agent, env = new_agent("paper")
    expected, monitor, _ = learn(agent, tmp_path / "run")
    other, other_env = new_agent("paper")
    steps, other_monitor, _ = learn(other, tmp_path / "run", resume=True)
    assert steps == expected
    assert other_monitor.n_calls == monitor.n_calls == N_STEPS
    assert other_env.last_episode.evaluate("test") == env.last_episode.evaluate("test")


@pytest.mark.long
def test_several_environments_with_wrappers_of_stable_baselines(tmp_path, monkeypatch):
    treat_rollouts_as(monkeypatch, "any")

    def new_ppo():
        envs = DummyVecEnv([lambda: ViTPatchSelectEnv(**TINY)] * 2)
        return PPO("MlpPolicy", VecNormalize(envs), n_steps=5, batch_size=5, seed=1, device="cpu")

    expected = learn_logged(new_ppo(), tmp_path / "uninterrupted", 40)
    learn_logged(new_ppo(), tmp_path / "run", 40, stop_at=16)  # after the first episodes
    assert learn_logged(new_ppo(), tmp_path / "run", 40, resume=True) == expected


@pytest.mark.long
def test_a_model_may_use_torchs_global_generator(tmp_path, monkeypatch):
    treat_rollouts_as(monkeypatch, "any")

    def new_ppo():
        env = ViTPatchSelectEnv(**TINY | {"model": dropout_model, "epochs": 3})
        return PPO("MlpPolicy", env, n_steps=10, batch_size=10, seed=1, device="cpu")

    expected, *_ = learn(new_ppo(), tmp_path / "uninterrupted")
    learn(new_ppo(), tmp_path / "run", stop_at=17)
    assert learn(new_ppo(), tmp_path / "run", resume=True)[0] == expected


@pytest.mark.long
def test_target_networks_updated_within_a_rollout(tmp_path, monkeypatch):
    treat_rollouts_as(monkeypatch, "any")

    def new_dqn():
        values = ("learning_starts=5", "train_freq=8", "tau=0.3", "target_update_interval=2")
        options = EnvConfig(**TINY | {"epochs": 3})
        options = TrainOptions(agent="dqn", actions="count", sb3=values, seed=3, env=options)
        env = make_env(options.env)
        return make_agent(options, env)

    agent = new_dqn()
    expected, *_ = learn(agent, tmp_path / "uninterrupted")
    learn(new_dqn(), tmp_path / "run", stop_at=13)
    other = new_dqn()
    assert learn(other, tmp_path / "run", resume=True)[0] == expected
    assert identical(snapshot(other.policy), snapshot(agent.policy))


@pytest.mark.long
def test_off_policy_with_vec_normalize_is_saved_between_rollouts(tmp_path, monkeypatch):
    treat_rollouts_as(monkeypatch, "any")

    def new_dqn():
        env = VecNormalize(DummyVecEnv([lambda: ViTPatchSelectEnv(**TINY)]))
        return MultiOutputDQN("MlpPolicy", env, learning_starts=5, seed=1, device="cpu")

    expected = learn_logged(new_dqn(), tmp_path / "uninterrupted", 30)
    learn_logged(new_dqn(), tmp_path / "run", 30, stop_at=17)
    assert learn_logged(new_dqn(), tmp_path / "run", 30, resume=True) == expected


@pytest.mark.long
def test_epsilon_resumes(tmp_path):
    agent, _ = new_agent("paper")
    learn(agent, tmp_path, stop_at=13)
    other, _ = new_agent("paper")
    assert isinstance(other, MultiOutputDQN)

    class Watch(BaseCallback):
        def _on_step(self):
            return False

    checkpoint = RunCheckpoint(tmp_path, callback=[TrainingMonitor(), Watch()], resume=True)
    with pytest.raises(ValueError, match="must be a"):  # saved with other callbacks
        other.learn(N_STEPS, callback=checkpoint)
    other, _ = new_agent("paper")
    learn(other, tmp_path, resume=True)
    expected, _ = new_agent("paper")
    learn(expected, tmp_path / "uninterrupted")
    assert other.exploration_rate == expected.exploration_rate


@pytest.mark.long
def test_saving_time_is_excluded_from_the_training_time(tmp_path, monkeypatch):
    agent, env = new_agent("random")
    monitor = TrainingMonitor(max_episodes=1)
    checkpoint = RunCheckpoint(tmp_path, every="1", callback=monitor)
    save = checkpoint.folder.save

    def slow(step, state, **more):
        save(step, state, **more)
        env.exclude_time(1000)  # as if it had taken this long

    monkeypatch.setattr(checkpoint.folder, "save", slow)
    monkeypatch.setattr("vit_patch_env.experiments.runs.monitor.time.perf_counter", lambda: 0.0)
    agent.learn(N_STEPS, callback=checkpoint)
    assert monitor.clock.excluded >= 1000 * (N_STEPS - 1)


@pytest.mark.parametrize(("name", "kwargs"), [("ppo", {}), ("paper", {"patch_size": 4})])
def test_checkpoints_of_another_agent_or_environment_are_refused(name, kwargs, tmp_path):
    learn(new_agent("paper")[0], tmp_path, stop_at=3)
    with pytest.raises(ValueError, match=r"must (be|hold)|expected"):
        learn(new_agent(name, **kwargs)[0], tmp_path, resume=True)


def test_environments_in_other_processes_are_refused(tmp_path):
    agent, _ = new_agent("random")
    agent.env = SubprocVecEnv.__new__(SubprocVecEnv)  # without its processes
    agent.env.has_attr = lambda name: False
    checkpoint = RunCheckpoint(tmp_path)
    checkpoint.init_callback(agent)
    with pytest.raises(ValueError, match=r"SavedLayers .* got SubprocVecEnv"):
        checkpoint.on_training_start({}, {})


def test_the_agents_environment_is_unwrapped_after_learning(tmp_path):
    agent, _ = new_agent("random")
    env = agent.env
    agent.learn(3, callback=RunCheckpoint(tmp_path))
    assert agent.env is env


def test_the_run_config_does_not_depend_on_the_folder():
    from vit_patch_env.experiments.runs.resume import run_config

    options = TrainOptions()
    assert run_config(options) == run_config(
        replace(options, out="x", checkpoint_every="1", resume="y")
    )
    assert run_config(options) != run_config(replace(options, seed=1))
