import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from rich.console import Console
from sb3_contrib import ARS
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import TINY
from vit_patch_env import CountAction, TopKAction, ViTPatchSelectEnv
from vit_patch_env.agents import FixedRule, MultiOutputDQN
from vit_patch_env.experiments import EpochMetrics, StepMetrics, TrainingMonitor
from vit_patch_env.experiments.runs import display as display_module
from vit_patch_env.experiments.runs.display import Display
from vit_patch_env.training.run import TrainingRun

SCALARS = {
    "vit/train_loss", "vit/val_accuracy", "vit/val_loss", "env/n_selected", "env/reward_loss",
    "env/reward_patch", "time/fps",
}  # fmt: skip


def make(**kwargs):
    return ViTPatchSelectEnv(**{**TINY, **kwargs})


def read_events(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return events


def test_one_short_episode_fills_tensorboard(tmp_path):
    model = MultiOutputDQN("MlpPolicy", make(), tensorboard_log=str(tmp_path), learning_starts=4)
    monitor = TrainingMonitor(
        log_interval=5, max_episodes=1, hyperparameters={"alpha": 0.2, "name": None}
    )
    model.learn(14, callback=monitor, tb_log_name="run")
    events = read_events(tmp_path / "run_1")
    tags = events.Tags()
    assert SCALARS | {"agent/epsilon", "train/loss", "rollout/ep_rew_mean"} <= set(tags["scalars"])
    assert {"vit/attention", "env/selected", "env/picture"} == set(tags["images"])
    assert [event.step for event in events.Scalars("env/n_selected")] == [5, 10, 14]
    assert [event.step for event in events.Scalars("vit/val_accuracy")] == [7, 14]
    assert len(events.Images("env/selected")) == 2
    assert "_hparams_/experiment" in events.summary_metadata


@pytest.mark.parametrize("kind", ["random", "a2c"])
def test_other_agents_are_monitored_the_same_way(kind, tmp_path):
    log = str(tmp_path)
    agent = (
        FixedRule("random", make(), n_keep=4, tensorboard_log=log)
        if kind == "random"
        else A2C("MlpPolicy", make(), tensorboard_log=log, device="cpu")
    )
    agent.learn(15, callback=TrainingMonitor(log_interval=5), tb_log_name="run")
    assert set(read_events(tmp_path / "run_1").Tags()["scalars"]) >= SCALARS


def test_epoch_metrics_are_those_of_the_environment():
    env = make(epochs=3)
    epochs, steps = [], []
    monitor = TrainingMonitor(on_epoch=epochs.append, on_step=steps.append, max_episodes=1)
    model = FixedRule("random", env, n_keep=4, seed=0).learn(10**6, callback=monitor)
    assert model.num_timesteps == env.expected_steps == len(steps) == 21
    assert [figures.epoch for figures in epochs] == [1, 2, 3]
    assert all(figures.n_selected == 4 for figures in epochs)
    assert epochs[-1].val_accuracy == env.last_episode.evaluate("val").accuracy
    losses = [step.info["loss"] for step in steps]
    assert epochs[1].train_loss == pytest.approx(np.mean(losses[7:14]))
    assert epochs[0].epsilon is None
    assert [figures.progress for figures in epochs] == pytest.approx([1 / 3, 2 / 3, 1])
    assert monitor.n_selected_mean == 4
    assert not monitor.diverged


def test_skipped_steps_are_counted_and_shown(capsys):
    env = make(epochs=2)
    epochs = []

    class Overflow(BaseCallback):
        def _on_step(self):
            for weight in env.episode.model.parameters():
                weight.register_hook(lambda gradient: gradient * float("nan"))
            return self.n_calls < 4

    monitor = TrainingMonitor(on_epoch=epochs.append, max_episodes=1)
    FixedRule("random", env, n_keep=4).learn(14, callback=[monitor, Overflow()])
    assert monitor.n_skipped == 3
    show = Display(Console(width=200, force_terminal=False), 2, 7)
    figures = EpochMetrics(*[1.0] * 12, n_skipped=3)
    show.show_epoch(figures)
    assert "3 steps skipped" in capsys.readouterr().out


def test_time_is_split_between_vit_and_agent():
    env = make()
    epochs = []
    monitor = TrainingMonitor(on_epoch=epochs.append, max_episodes=1)
    MultiOutputDQN("MlpPolicy", env).learn(100, callback=monitor)
    timings = env.last_episode.timings
    assert monitor.clock.train == pytest.approx(timings.train_seconds)
    assert monitor.clock.agent > timings.observe_seconds
    assert sum(figures.train_seconds for figures in epochs) == pytest.approx(monitor.clock.train)
    assert sum(figures.agent_seconds for figures in epochs) == pytest.approx(monitor.clock.agent)
    for figures in epochs:
        seconds = figures.train_seconds + figures.agent_seconds
        assert figures.images_per_second == pytest.approx(7 * 64 / seconds)


@pytest.mark.parametrize("budget", ["epochs", "flops"])
def test_time_for_counting_flops_is_excluded_once(budget, monkeypatch):
    count = TrainingRun.flops

    def count_for_long(run):
        run.stopwatch.seconds["count"] += 1000  # more than the test can take
        return count(run)

    env, monitor = make(budget=budget), TrainingMonitor(max_episodes=2)
    agent = FixedRule("all", env).learn(1)
    monkeypatch.setattr(TrainingRun, "flops", count_for_long)
    agent.learn(10**6, callback=monitor, reset_num_timesteps=False)
    assert monitor.n_calls > 20
    assert round(monitor.clock.excluded / 1000) == (monitor.n_calls if budget == "flops" else 0)


def test_recorded_patches_are_those_trained_on_with_any_actions():
    epochs = []
    monitor = TrainingMonitor(
        max_episodes=2, on_epoch=lambda figures: epochs.append((figures, monitor.selected))
    )
    env = CountAction(make(observation="attention_output+run"), counts=[3, 5])
    A2C("MlpPolicy", env, device="cpu", seed=0).learn(28, callback=monitor)
    assert [figures.epoch for figures, _ in epochs] == [1, 2, 1, 2]
    for figures, selected in epochs:
        assert selected.shape == (16,)
        assert 3 <= figures.n_selected <= 5
        assert selected.sum() == pytest.approx(figures.n_selected)


def test_an_epoch_that_the_budget_cuts_short_is_reported():
    env = make(budget="flops", observation="none")
    epochs, steps = [], []
    monitor = TrainingMonitor(on_epoch=epochs.append, on_step=steps.append, max_episodes=1)
    FixedRule("random", env, n_keep=4).learn(10**6, callback=monitor)
    assert len(steps) % 7 != 0
    assert [figures.epoch for figures in epochs] == list(range(1, len(steps) // 7 + 2))
    progress = [figures.progress for figures in epochs]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert len(steps) > 2 * env.expected_steps / 3 > 14


def test_learning_continues_within_an_episode():
    epochs = []
    monitor = TrainingMonitor(on_epoch=epochs.append)
    agent = FixedRule("all", make())
    agent.learn(5, callback=monitor)
    agent.learn(9, callback=monitor, reset_num_timesteps=False)
    assert [figures.epoch for figures in epochs] == [1, 2]
    assert monitor.clock.agent > 0
    assert all(figures.agent_seconds > 0 for figures in epochs)


def test_a_log_interval_of_no_steps_is_refused():
    with pytest.raises(ValueError, match=r"log_interval must be in \[1, inf\), got 0"):
        TrainingMonitor(log_interval=0)


def test_episodes_and_second_runs_are_counted():
    monitor = TrainingMonitor(max_episodes=2)
    agent = FixedRule("all", make())
    agent.learn(1000, callback=monitor)
    assert agent.num_timesteps == 28
    agent.learn(1000, callback=monitor)
    assert agent.num_timesteps == 28
    assert monitor.clock.total > monitor.clock.train > 0


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_several_environments_are_averaged(kind):
    epochs = []
    envs = kind([make, make])
    monitor = TrainingMonitor(on_epoch=epochs.append)
    FixedRule("all", envs).learn(28, callback=monitor)
    assert [figures.epoch for figures in epochs] == [1, 2]
    assert all(np.isnan(figures.agent_seconds) for figures in epochs)
    envs.close()


def test_a_divergence_is_reported():
    env = make(learning_rate=1e30)
    monitor = TrainingMonitor(max_episodes=1)
    with np.errstate(all="ignore"):
        FixedRule("all", env).learn(100, callback=monitor)
    assert monitor.diverged


@pytest.mark.parametrize(
    ("n_epochs", "said"), [(5, "epoch 2/5: loss"), (None, "epoch 2 (38%): loss")]
)
def test_epochs_are_printed_with_their_number_or_the_share_of_the_budget(n_epochs, said):
    console = Console(file=io.StringIO(), width=200)
    display, epochs = Display(console, n_epochs, 7), []
    monitor = TrainingMonitor(on_epoch=epochs.append, max_episodes=1)
    FixedRule("all", make()).learn(100, callback=monitor)
    display.show_epoch(epochs[-1]._replace(progress=0.38))
    assert console.file.getvalue().startswith(said)


def test_the_bar_moves_with_the_share_of_the_budget():
    display = Display(Console(file=io.StringIO(), force_terminal=True), None, 7)
    (bar,) = display.progress.tasks
    assert (bar.percentage, bar.fields["epoch"], bar.fields["step"]) == (0, "1", "0/7")
    display.show_step(StepMetrics(27, {"loss": 1.0, "progress": 0.25}, None, 4.0))
    assert (bar.percentage, bar.fields["epoch"], bar.fields["step"]) == (25, "4", "6/7")


def test_an_epoch_that_takes_long_has_a_line_per_minute(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(display_module, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    console = Console(file=io.StringIO(), width=200)
    display = Display(console, 5, 351)
    for step in range(1, 200):
        seconds[0] += 1
        display.show_step(StepMetrics(step, {"loss": 1.0, "progress": 0.1}, 0.5, 4.0))
    assert console.file.getvalue().splitlines() == [
        f"epoch 1/5, step {step}/351: loss 1.000, 4.0 patches, ε 0.50" for step in (60, 120, 180)
    ]


class Lives(gym.Wrapper):
    """Reports an end in the middle of a run, which it then continues, as EpisodicLifeEnv does."""

    def reset(self, **kwargs):
        if self.between_lives:
            return self.last[0], {}
        return self.env.reset(**kwargs)

    between_lives = False

    def step(self, action):
        self.last = self.env.step(action)
        observation, reward, terminated, truncated, info = self.last
        self.between_lives = self.unwrapped.steps_done == 5 and not truncated
        return observation, reward, terminated or self.between_lives, truncated, info


class Begun(gym.Wrapper):
    """Takes three steps within a reset, as NoopResetEnv does."""

    def reset(self, **kwargs):
        _, info = self.env.reset(**kwargs)
        for _ in range(3):
            observation, *_ = self.env.step(np.ones(16))
        return observation, info


class Repeated(gym.Wrapper):
    """Repeats each action, so that epochs end within a step."""

    def step(self, action):
        for _ in range(4):
            result = self.env.step(action)
            if result[2] or result[3]:
                break
        return result


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("wrapper", "expected", "n_calls"),
    [
        (Lives, [(1, 0.5), (2, 1.0)] * 2, 28),
        (Begun, [(1, 0.5), (2, 1.0)] * 2, 22),
        (Repeated, [(2, 8 / 14), (2, 1.0)] * 2, 8),
    ],
)
def test_epochs_are_those_of_the_run_through_wrappers_with_other_episodes(
    wrapper, expected, n_calls
):
    epochs = []
    monitor = TrainingMonitor(on_epoch=epochs.append, max_episodes=2)
    env = wrapper(make())
    A2C("MlpPolicy", env, device="cpu", n_steps=4).learn(100, callback=monitor)
    assert [(one.epoch, one.progress) for one in epochs] == [
        (epoch, pytest.approx(progress)) for epoch, progress in expected
    ]
    assert monitor.n_calls == n_calls


def test_an_algorithm_whose_callbacks_see_no_steps_is_refused():
    agent = ARS("LinearPolicy", TopKAction(make()), n_delta=2, device="cpu")
    with pytest.raises(ValueError, match=r"^TrainingMonitor needs an algorithm .*, got ARS$"):
        agent.learn(28, callback=TrainingMonitor())


def test_facts_are_the_environments_whatever_was_set_on_its_wrappers():
    envs = DummyVecEnv([lambda: gym.make("ViTPatchSelect-v0", **TINY)])
    envs.set_attr("steps_per_epoch", 3)
    epochs = []
    agent = A2C("MlpPolicy", envs, device="cpu")
    agent.learn(14, callback=TrainingMonitor(on_epoch=epochs.append))
    assert [one.epoch for one in epochs] == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of Linux")
@pytest.mark.long
def test_the_processes_peak_is_not_reset_without_a_monitor():
    code = f"""
import numpy, resource
from vit_patch_env import ViTPatchSelectEnv
del_me = numpy.ones(60_000_000)
del del_me
env = ViTPatchSelectEnv(**{TINY}, reward="paper")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
env.reset(seed=0)
for _ in range(14):
    *_, truncated, info = env.step(numpy.ones(16))
assert truncated and "val_loss" in info
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >= peak
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
