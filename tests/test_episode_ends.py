"""Episodes that end early are kept, and no step follows an end."""

from operator import attrgetter

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import FixedRule
from vit_patch_env.experiments import TrainingMonitor

ALL = np.ones(16, dtype=np.int8)
N_STEPS = 14
"""Steps of an episode of `TINY`."""


class EarlyStop(gym.Wrapper):
    """Terminates an episode after some steps, as a wrapper that watches the loss might."""

    def __init__(self, env, n_steps):
        super().__init__(env)
        self.n_steps = n_steps

    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return (
            observation,
            reward,
            self.unwrapped.steps_done == self.n_steps,
            truncated,
            info,
        )


def make(**kwargs):
    return gym.make("ViTPatchSelect-v0", **{**TINY, **kwargs})


def metrics_after(n_steps, seed):
    """Of the ViT of a run on all patches."""
    env = ViTPatchSelectEnv(**TINY)
    env.reset(seed=seed)
    for _ in range(n_steps):
        env.step(ALL)
    return env.evaluate("val")


def end(env, seed=0):
    env.reset(seed=seed)
    for _ in range(N_STEPS):
        results = env.step(ALL)
    return results


@pytest.mark.parametrize(
    "make_env",
    [lambda: make(max_episode_steps=5), lambda: EarlyStop(make(), 5)],
    ids=["max_episode_steps", "early stop"],
)
def test_an_episode_that_a_wrapper_ends_is_the_last_one(make_env):
    envs = DummyVecEnv([make_env])
    envs.seed(0)
    envs.reset()
    for _ in range(5):
        _, _, dones, _ = envs.step(ALL[None])
    assert dones.all()
    env = envs.envs[0].unwrapped
    assert env.steps_done == 0  # the vector environment has reset it
    assert env.last_episode.progress == pytest.approx(5 / N_STEPS)
    assert env.last_episode.evaluate("val") == metrics_after(5, seed=0)


def test_evaluating_the_last_episode_says_how_much_of_the_budget_it_used():
    env = make().unwrapped
    with pytest.raises(ValueError, match=r"^expected an episode that has ended, got none$"):
        env.evaluate("val", episode="last")
    env.reset(seed=0)
    for _ in range(7):
        env.step(ALL)
    with pytest.raises(ValueError, match=r"got a running one that has used 50 % of its budget$"):
        env.evaluate("val", episode="last")
    env.reset(seed=1)
    with pytest.warns(UserWarning, match=r"^the last episode ended after 50 % of its budget$"):
        assert env.evaluate("val", episode="last") == metrics_after(7, seed=0)
    end(env, seed=2)
    assert env.evaluate("val", episode="last") == env.evaluate("val")  # without a warning
    with pytest.raises(ValueError, match="episode must be one of running, last, got 'first'"):
        env.evaluate("val", episode="first")


def test_an_episode_without_a_step_is_no_last_one():
    env = make().unwrapped
    for _ in range(2):
        env.reset()
        with pytest.raises(ValueError, match="used 0 % of its budget"):
            _ = env.last_episode
    end(env)
    ended = env.last_episode
    for _ in range(2):
        env.reset()
    assert env.last_episode is ended


def test_a_reset_that_fails_ends_nothing():
    env = make().unwrapped
    env.reset(seed=0)
    env.step(ALL)
    running = env.episode
    with pytest.raises(ValueError, match="seed must be"):
        env.reset(seed=-1)
    assert env.episode is running
    with pytest.raises(ValueError, match="expected an episode that has ended"):
        _ = env.last_episode


def test_what_a_short_learn_has_trained_is_kept_by_the_next_one():
    env = ViTPatchSelectEnv(**TINY)
    rule = FixedRule("all", env, n_keep=16, seed=0).learn(5)
    assert (env.episode.progress, env.steps_done) == (pytest.approx(5 / N_STEPS), 5)
    trained = env.evaluate("val")
    rule.learn(3)
    assert env.last_episode.evaluate("val") == trained
    assert env.steps_done == 3


@pytest.mark.parametrize("kind", [A2C, PPO])
def test_monitor_reports_the_episode_that_was_cut(kind, tmp_path):
    envs = DummyVecEnv([lambda: make(max_episode_steps=5)])
    n_steps = {"n_steps": 10} | ({"batch_size": 5} if kind is PPO else {})
    model = kind("MlpPolicy", envs, seed=0, tensorboard_log=str(tmp_path), device="cpu", **n_steps)
    epochs, lasts = [], []

    def on_epoch(metrics):
        epochs.append(metrics)
        lasts.append(envs.envs[0].unwrapped.last_episode.evaluate("val"))

    model.learn(10, callback=TrainingMonitor(on_epoch=on_epoch), tb_log_name="run")
    assert [figures.progress for figures in epochs] == pytest.approx([5 / N_STEPS] * 2)
    assert [figures.val_loss for figures in epochs] == [last.loss for last in lasts]
    assert len({figures.val_loss for figures in epochs}) == 2
    assert all(figures.train_seconds > 0 for figures in epochs)
    assert all(figures.flops > 0 for figures in epochs)
    events = EventAccumulator(str(tmp_path / "run_1"))
    events.Reload()
    shares = [event.value for event in events.Scalars("env/progress")]
    assert shares == pytest.approx([5 / N_STEPS] * 2)


def test_a_cut_episode_is_saved_as_the_last_one(tmp_path):
    env, other = (ViTPatchSelectEnv(**TINY) for _ in range(2))
    env.reset(seed=0)
    for _ in range(5):
        env.step(ALL)
    env.reset()
    env.step(ALL)
    env.save(tmp_path / "run")
    other.load(tmp_path / "run")
    assert other.last_episode.progress == env.last_episode.progress == pytest.approx(5 / N_STEPS)
    assert other.last_episode.evaluate("val") == env.last_episode.evaluate("val")
    assert other.step(ALL)[1] == env.step(ALL)[1]


@pytest.mark.parametrize("disable_env_checker", [False, True])
def test_a_step_before_the_first_reset_is_refused(disable_env_checker):
    env = make(disable_env_checker=disable_env_checker)
    for one in (env, env.unwrapped):
        with pytest.raises(gym.error.ResetNeeded):
            one.step(ALL)
    with pytest.raises(ValueError, match="expected a reset before this call, got none"):
        env.unwrapped.step(ALL)
    env.close()
    with pytest.raises(gym.error.ResetNeeded):
        env.unwrapped.step(ALL)


@pytest.mark.parametrize("disable_env_checker", [False, True])
@pytest.mark.parametrize("diverges", [False, True])
def test_a_step_after_the_end_is_refused_and_changes_nothing(disable_env_checker, diverges):
    env = make(disable_env_checker=disable_env_checker)
    plain = env.unwrapped
    if diverges:
        env.reset(seed=0)
        for weight in plain.episode.model.parameters():
            weight.data.fill_(float("nan"))
        assert env.step(ALL)[2]
    else:
        assert end(env)[3]
    n_steps, metrics = plain.steps_done, None if diverges else plain.evaluate("val")
    for one in (env, plain):
        for action in (ALL, np.zeros(3)):  # whatever the action is
            with pytest.raises(gym.error.ResetNeeded, match="as the episode has ended, got a step"):
                one.step(action)
    assert plain.steps_done == n_steps
    assert diverges or plain.evaluate("val") == metrics
    env.reset()
    env.step(ALL)


def test_an_end_is_loaded_too(tmp_path):
    env, other = (ViTPatchSelectEnv(**TINY) for _ in range(2))
    end(env)
    env.save(tmp_path / "run")
    other.load(tmp_path / "run")
    with pytest.raises(gym.error.ResetNeeded):
        other.step(ALL)


@pytest.mark.one_in(6)
# Python 3.12 warns of every fork of a process with threads.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("mode", gym.vector.AutoresetMode)
@pytest.mark.parametrize("vectorization_mode", ["sync", "async"])
def test_vector_environments_reset_in_every_mode(mode, vectorization_mode):
    envs = gym.make_vec(
        "ViTPatchSelect-v0", num_envs=2, vectorization_mode=vectorization_mode,
        vector_kwargs={"autoreset_mode": mode}, **{**TINY, "epochs": 1},
    )  # fmt: skip
    envs.reset(seed=0)
    ends = 0
    for _ in range(17):
        _, _, terminated, truncated, _ = envs.step(np.ones((2, 16), dtype=np.int8))
        ended = terminated | truncated
        ends += ended.sum()
        if mode == gym.vector.AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": ended})
    assert ends == 4
    envs.close()


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_stable_baselines_environments_hold_both_episodes(kind):
    envs = kind([lambda: make(max_episode_steps=3, epochs=1), lambda: make(epochs=1)])
    envs.reset()
    for _ in range(8):
        envs.step(np.ones((2, 16), dtype=np.int8))
    last = envs.env_method("ask", attrgetter("progress"), ended=True)
    running = envs.env_method("ask", attrgetter("progress"))
    assert last == pytest.approx([3 / 7, 1])
    assert running == pytest.approx([2 / 7, 1 / 7])
    envs.close()
