"""What scripts without `TrainingMonitor` find in TensorBoard, and with it once for each step."""

from collections import Counter

import numpy as np
import pytest
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.vec_env import DummyVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import TINY
from vit_patch_env import CountAction, ViTPatchSelectEnv
from vit_patch_env.agents import FixedRule, Frozen, MultiOutputDQN, PatchBandit
from vit_patch_env.experiments import RunCheckpoint, TrainingMonitor

POINTS = {"vit/train_loss", "env/n_selected", "env/reward", "env/reward_loss", "env/reward_patch"}
OF_AN_EPISODE = {
    "vit/val_loss", "vit/val_accuracy", "rollout/ep_rew_mean", "rollout/ep_len_mean",
    "rollout/success_rate", "time/fps",
}  # fmt: skip


def make(**kwargs):
    return ViTPatchSelectEnv(**{**TINY, "observation": "none+run", "epochs": 4, **kwargs})


def read(folder):
    """Scalars by tag, as lists of (step, value)."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def steps(points):
    return [step for step, _ in points]


def agents(log):
    values = {"tensorboard_log": str(log), "seed": 0}
    return {
        "dqn": lambda env: MultiOutputDQN("MlpPolicy", env, learning_starts=4, **values),
        "rule": lambda env: FixedRule("random", env, n_keep=5, **values),
        "bandit": lambda env: PatchBandit("BanditPolicy", env, **values),
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "folder"),
    [("dqn", "MultiOutputDQN_1"), ("rule", "FixedRule_random_1"), ("bandit", "PatchBandit_1")],
)
def test_a_plain_script_shows_the_vit_and_the_return(name, folder, tmp_path):
    env = make()
    losses = []
    agent = agents(tmp_path)[name](env)
    agent.learn(28, callback=lambda now, _: losses.append(now["infos"][0]["loss"]) or True)
    scalars = read(tmp_path / folder)
    assert scalars.keys() >= POINTS | OF_AN_EPISODE
    for tag in POINTS:
        assert steps(scalars[tag])[:3] == [10, 20, 28]
    means = [np.mean(losses[:10]), np.mean(losses[10:20]), np.mean(losses[20:28])]
    assert [value for _, value in scalars["vit/train_loss"][:3]] == pytest.approx(means)
    accuracy = env.last_episode.evaluate("val").accuracy
    assert scalars["vit/val_accuracy"] == [(28, pytest.approx(accuracy))]
    assert scalars["rollout/success_rate"][0] == (28, pytest.approx(accuracy))
    assert scalars["rollout/ep_len_mean"][0] == (28, 28)


@pytest.mark.long
def test_the_agents_own_values_are_points_too(tmp_path):
    agents(tmp_path)["dqn"](make()).learn(28)
    scalars = read(tmp_path / "MultiOutputDQN_1")
    assert steps(scalars["agent/epsilon"])[:2] == [10, 20]
    assert set(steps(scalars["train/loss"])) <= {20, 28, 30}
    bandit = PatchBandit(
        "BanditPolicy", make(), decision_steps=7, tensorboard_log=str(tmp_path), seed=0
    )
    bandit.learn(28)
    assert steps(read(tmp_path / "PatchBandit_1")["agent/value"]) == [10, 20, 28]


def test_a_run_shorter_than_an_episode_is_logged(tmp_path):
    agents(tmp_path)["rule"](make()).learn(13)
    assert steps(read(tmp_path / "FixedRule_random_1")["vit/train_loss"]) == [10, 13]


@pytest.mark.long
def test_several_environments_are_averaged(tmp_path):
    agents(tmp_path)["rule"](DummyVecEnv([make, make])).learn(56)
    scalars = read(tmp_path / "FixedRule_random_1")
    assert steps(scalars["env/n_selected"]) == [20, 40, 56]
    assert steps(scalars["vit/val_accuracy"]) == [56]


@pytest.mark.long
@pytest.mark.parametrize("name", ["dqn", "rule"])
def test_the_terminal_gets_a_table_for_each_episode(name, capsys, tmp_path):
    agent = agents(tmp_path)[name](make(epochs=2))
    agent.verbose = 1
    agent.learn(30)
    tables = capsys.readouterr().out.count("total_timesteps")
    assert tables == 2
    agent.learn(30, log_interval=None)
    assert capsys.readouterr().out.count("total_timesteps") == 0


def test_other_environments_log_their_rewards(tmp_path):
    from stable_baselines3.common.envs import IdentityEnvMultiBinary

    env = IdentityEnvMultiBinary(4, ep_length=20)
    FixedRule("random", env, n_keep=2, tensorboard_log=str(tmp_path)).learn(40)
    scalars = read(tmp_path / "FixedRule_random_1")
    assert {"env/reward", "rollout/ep_rew_mean"} <= scalars.keys()
    assert not POINTS - {"env/reward"} & scalars.keys()


@pytest.mark.long
@pytest.mark.parametrize("kind", [PPO, A2C, DQN])
def test_algorithms_of_stable_baselines3_show_the_return_and_the_accuracy(kind, tmp_path):
    env = make(epochs=2) if kind is not DQN else CountAction(make(epochs=2))
    values = {"n_steps": 20, "batch_size": 20} if kind is PPO else {}
    agent = kind("MlpPolicy", env, tensorboard_log=str(tmp_path), device="cpu", seed=0, **values)
    agent.learn(40, log_interval=1)
    scalars = read(tmp_path / f"{kind.__name__}_1")
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean"} <= scalars.keys()
    _, accuracy = scalars["rollout/success_rate"][-1]
    assert accuracy == pytest.approx(np.mean(agent.ep_success_buffer))
    assert 0 <= accuracy <= 1


def test_monitor_takes_the_metrics_of_an_episode(tmp_path):
    keywords = ("val_accuracy", "val_loss", "loss_mean", "n_selected_mean")
    env = Monitor(make(epochs=2), str(tmp_path / "log"), info_keywords=keywords)
    agent = PPO("MlpPolicy", env, n_steps=14, batch_size=14, device="cpu", seed=0).learn(28)
    results = load_results(str(tmp_path))
    assert len(results) == len(agent.ep_info_buffer) == 2
    metrics = env.unwrapped.last_episode.evaluate("val")
    last = agent.ep_info_buffer[-1]
    assert last["val_accuracy"] == metrics.accuracy == results["val_accuracy"].iloc[-1]
    assert last["val_loss"] == metrics.loss
    assert 1 <= last["n_selected_mean"] <= 16
    env.close()


@pytest.mark.long
def test_means_of_an_episode_are_those_of_its_steps_also_when_it_is_resumed(tmp_path):
    env, other = make(), make()
    env.reset(seed=0)
    infos = []
    for step in range(28):
        mask = np.arange(16) <= step % 16
        if step == 10:
            env.save(tmp_path / "state")
            other.load(tmp_path / "state")
        infos.append(env.step(mask)[4])
        if step >= 10:
            assert other.step(mask)[4] == infos[-1]
    for end in (1, 14, 28):
        means = [np.mean([info[key] for info in infos[:end]]) for key in ("loss", "n_selected")]
        got = infos[end - 1]["loss_mean"], infos[end - 1]["n_selected_mean"]
        assert got == pytest.approx(means)
    assert "val_accuracy" not in infos[-2]


def test_the_final_evaluation_is_not_training_time(monkeypatch):
    from vit_patch_env.training import run as module

    def slow(*args, **kwargs):
        import time

        time.sleep(0.3)
        return scores(*args, **kwargs)

    scores = module.scores
    monkeypatch.setattr(module, "scores", slow)
    env, monitor = make(epochs=1), TrainingMonitor(max_episodes=1)
    FixedRule("all", env).learn(100, callback=monitor)
    assert env.last_episode.timings.excluded_seconds > 0.3
    assert monitor.clock.agent < 0.3
    assert monitor.clock.train < 0.3


def monitored(kind, log):
    own = agents(log)
    if kind in own:
        return own[kind]
    values = {"tensorboard_log": str(log), "device": "cpu", "seed": 0}
    return {
        "frozen": lambda env: _frozen(own["dqn"](env), log),
        "ppo": lambda env: PPO("MlpPolicy", env, n_steps=10, batch_size=10, **values),
        "sb3 dqn": lambda env: DQN("MlpPolicy", CountAction(env), learning_starts=4, **values),
        "a2c": lambda env: A2C("MlpPolicy", env, **values),
    }[kind]


def _frozen(agent, log):
    frozen = Frozen(agent)
    frozen.tensorboard_log = str(log)
    return frozen


@pytest.mark.one_in(6)
@pytest.mark.parametrize(
    ("kind", "log_interval"),
    [
        ("dqn", 1), ("rule", 1), ("rule", 4), ("bandit", 1), ("frozen", 1), ("ppo", 1), ("ppo", 2),
        ("sb3 dqn", 1), ("a2c", 1),
    ],
)  # fmt: skip
def test_with_a_monitor_every_tag_is_written_once_per_step(kind, log_interval, tmp_path):
    agent = monitored(kind, tmp_path)(make(epochs=2))
    monitor = TrainingMonitor(log_interval=5)
    agent.learn(30, callback=monitor, log_interval=log_interval, tb_log_name="run")
    scalars = read(tmp_path / "run_1")
    for tag in ("time/fps", "vit/train_loss", "vit/val_accuracy", "env/n_selected"):
        repeated = [step for step, n in Counter(steps(scalars[tag])).items() if n > 1]
        assert not repeated, (tag, steps(scalars[tag]))
    assert {5, 7, 10, 14} <= set(steps(scalars["time/fps"]))
    assert steps(scalars["vit/train_loss"])[:3] == [5, 10, 14]
    assert "env/reward" not in scalars


def test_a_monitor_within_a_checkpoint_callback_logs_alone(tmp_path):
    agent = agents(tmp_path)["rule"](make(epochs=2))
    monitor = TrainingMonitor(log_interval=7, max_episodes=1)
    callback = RunCheckpoint(tmp_path / "checkpoints", callback=monitor)
    agent.learn(100, callback=callback)
    assert steps(read(tmp_path / "FixedRule_random_1")["vit/train_loss"]) == [7, 14]
