"""An agent's metrics on a split, through whatever stands between it and the environment."""

import copy
import gc
import os
import random
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import (
    AddRenderObservation,
    DelayObservation,
    DtypeObservation,
    FlattenObservation,
    FrameStackObservation,
    NormalizeObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
    RepeatAction,
    RescaleAction,
    StickyAction,
    TimeAwareObservation,
    TimeLimit,
    TransformAction,
    TransformObservation,
)
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.wrappers import ActionMasker, TimeFeatureWrapper
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from tests.conftest import TINY
from vit_patch_env import CountAction, NumPyInfo, TopKAction, evaluate_agent
from vit_patch_env.agents import FixedRule, MultiOutputDQN

N_BATCHES = 9
SIZES = {"dataset": "digits", "batch_size": 40, "epochs": 1}
"""360 test images in 9 batches."""


def make(**kwargs):
    return gym.make("ViTPatchSelect-v0", **{**TINY, **SIZES, **kwargs})


def trained(wrap=lambda env: env, n_steps=5, **kwargs):
    """A wrapped environment whose ViT has trained for some steps."""
    env = wrap(make(**kwargs))
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(n_steps):
        env.step(env.action_space.sample())
    return env


def closed():
    env = make()
    env.reset(seed=0)
    env.close()
    return env


class Recorder:
    """Picks by its observations alone, and keeps them."""

    def __init__(self, action=lambda observation: observation > np.median(observation)):
        self.action = action
        self.seen = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        assert deterministic
        self.seen.append(copy.deepcopy(observation))
        assert (state or 0) == len(self.seen) - 1
        return self.action(observation), len(self.seen)


def of_patches(observation):
    patches = np.asarray(observation, dtype=np.float64).reshape(-1, 16)[-1]
    return (patches > np.median(patches)).astype(np.int8)


def observations(env, split="test"):
    """What the environment itself shows of a split."""
    recorder = Recorder()
    env.unwrapped.evaluate(split, selector=recorder)
    return np.stack(recorder.seen)


@pytest.mark.parametrize(
    ("split", "observation"),
    [("val", "attention_output"), ("test", "attention_received+run")],
)
def test_without_wrappers_it_is_what_evaluate_gives(split, observation):
    env = trained(observation=observation)
    for agent in (
        FixedRule("random", env, n_keep=5, seed=0),
        MultiOutputDQN("MlpPolicy", env, seed=0),
        A2C("MlpPolicy", env, seed=0, device="cpu"),
    ):
        expected = env.unwrapped.evaluate(split, selector=agent)
        assert evaluate_agent(agent, env, split) == expected
        assert evaluate_agent(agent, agent.get_env(), split) == expected
    assert env.unwrapped.evaluate(split) != expected


TRANSPARENT = {
    "time limit": lambda env: TimeLimit(env, 5),
    "statistics": RecordEpisodeStatistics,
    "reward": NormalizeReward,
    "flatten": FlattenObservation,
    "float64": lambda env: DtypeObservation(env, np.float64),
    "monitor": Monitor,
    "info": NumPyInfo,
}


@pytest.mark.long
@pytest.mark.parametrize("wrap", TRANSPARENT.values(), ids=TRANSPARENT)
def test_wrappers_that_change_nothing_change_nothing(wrap):
    env, plain = trained(wrap), trained()
    agent = PPO("MlpPolicy", plain, seed=0, device="cpu")
    assert evaluate_agent(agent, env, "test") == plain.unwrapped.evaluate("test", selector=agent)


def test_a_monitor_with_a_file_is_passed_and_its_file_unchanged(tmp_path):
    env = trained(lambda env: Monitor(env, str(tmp_path / "log")))
    before = (tmp_path / "log.monitor.csv").read_text()
    agent = PPO("MlpPolicy", env, seed=0, device="cpu")
    assert evaluate_agent(agent, env, "val") == env.unwrapped.evaluate("val", selector=agent)
    assert (tmp_path / "log.monitor.csv").read_text() == before
    env.close()


def test_normalised_observations_are_those_of_the_running_means():
    env = trained(NormalizeObservation)
    before = copy.deepcopy(env.obs_rms)
    recorder = Recorder(of_patches)
    metrics = evaluate_agent(recorder, env, "test")
    expected = (observations(env) - before.mean) / np.sqrt(before.var + env.epsilon)
    assert np.allclose(recorder.seen, expected, rtol=1e-5)
    assert np.array_equal(env.obs_rms.mean, before.mean)
    assert env.obs_rms.count == before.count
    assert env.update_running_mean
    assert metrics != env.unwrapped.evaluate("test", selector=Recorder(of_patches))


def test_frames_are_stacked_over_the_batches():
    env = trained(lambda env: FrameStackObservation(env, 3))
    recorder = Recorder(of_patches)
    metrics = evaluate_agent(recorder, env, "test")
    own = observations(env)
    padded = np.concatenate((own[:1], own[:1], own))
    for index, seen in enumerate(recorder.seen):
        assert np.array_equal(seen, padded[index : index + 3])
    assert metrics == env.unwrapped.evaluate("test", selector=Recorder(of_patches))


def test_delayed_observations_are_delayed():
    env = trained(lambda env: DelayObservation(env, delay=2))
    recorder = Recorder(of_patches)
    evaluate_agent(recorder, env, "test")
    assert np.array_equal(recorder.seen[2:], observations(env)[:-2])


def test_numbers_of_patches_are_sampled_reproducibly():
    env = trained(lambda env: CountAction(env, counts=(4, 12)))
    state = env._rng.bit_generator.state
    metrics = [evaluate_agent(Recorder(lambda _: np.int64(0)), env, "test") for _ in range(2)]
    assert metrics[0] == metrics[1]
    assert metrics[0] != evaluate_agent(Recorder(lambda _: np.int64(1)), env, "test")
    assert env._rng.bit_generator.state == state
    sampler = CountAction(env.unwrapped, counts=(4, 12))
    sampler.seed_sampling(0)
    expected = Recorder(lambda _: sampler.action(0))
    assert env.unwrapped.evaluate("test", selector=expected) == metrics[0]


def test_patches_are_sampled_by_the_splits_observations():
    env = trained(lambda env: CountAction(env, sampling="attended"))
    values = iter(observations(env))
    sampler = CountAction(env.unwrapped, sampling="attended")
    sampler.seed_sampling(0)

    def sampled(_):
        sampler._store_values(next(values))
        return sampler.action(2)

    expected = env.unwrapped.evaluate("test", selector=Recorder(sampled))
    assert evaluate_agent(Recorder(lambda _: np.int64(2)), env, "test") == expected


def test_scores_are_ranked():
    env = trained(TopKAction)
    action = np.append(np.linspace(1, -1, 16), -1 / 3).astype(np.float32)
    mask = env.action(action)
    expected = env.unwrapped.evaluate("test", selector=Recorder(lambda _: mask))
    assert evaluate_agent(Recorder(lambda _: action), env, "test") == expected


def test_actions_are_repeated_over_batches():
    env = trained(lambda env: RepeatAction(env, 2))
    recorder = Recorder(of_patches)
    evaluate_agent(recorder, env, "test")
    assert np.array_equal(recorder.seen, observations(env)[::2])
    assert len(recorder.seen) == 5


def test_sticky_actions_have_the_same_seed_every_time():
    env = trained(lambda env: StickyAction(env, 0.5))
    metrics = {evaluate_agent(Recorder(of_patches), env, "test") for _ in range(3)}
    assert len(metrics) == 1


def test_an_empty_action_keeps_the_patch_with_the_highest_own_observation():
    env = trained(lambda env: TransformObservation(env, lambda o: -o, env.observation_space))
    nothing = Recorder(lambda _: np.zeros(16))
    highest = Recorder(lambda o: np.arange(16) == o.argmax())
    assert evaluate_agent(nothing, env, "test") == env.unwrapped.evaluate("test", highest)


FEW = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}}

ALGORITHMS = {
    "dqn": (DQN, CountAction, {"learning_starts": 4}),
    "sac": (SAC, TopKAction, {"learning_starts": 4, "buffer_size": 100}),
    "ppo": (
        PPO,
        lambda env: NormalizeObservation(FrameStackObservation(env, 2)),
        FEW,
    ),
    "recurrent": (
        RecurrentPPO,
        lambda env: TransformAction(env, lambda action: action, spaces.MultiDiscrete([2] * 16)),
        FEW,
    ),
    "maskable": (MaskablePPO, CountAction, FEW),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_algorithms_learn_and_are_evaluated(name):
    algorithm, wrap, kwargs = ALGORITHMS[name]
    policy = "MlpLstmPolicy" if name == "recurrent" else "MlpPolicy"
    env = wrap(make(epochs=4))
    agent = algorithm(policy, env, seed=0, device="cpu", **kwargs)
    agent.learn(20)
    metrics = evaluate_agent(agent, env, "test")
    assert evaluate_agent(agent, agent.get_env(), "test") == metrics
    assert 0 <= metrics.accuracy <= 1


def test_the_state_of_a_recurrent_agent_is_carried_from_batch_to_batch():
    env = trained()
    agent = RecurrentPPO("MlpLstmPolicy", env, seed=0, device="cpu")
    seen = []
    predict = agent.predict

    def watched(observation, state=None, episode_start=None, deterministic=False):
        seen.append(state)
        return predict(observation, state, episode_start, deterministic)

    agent.predict = watched
    metrics = evaluate_agent(agent, env, "test")
    assert seen[0] is None
    assert len({state[0].tobytes() for state in seen[1:]}) == N_BATCHES - 1
    del agent.predict
    assert metrics == env.unwrapped.evaluate("test", selector=agent)


VEC_ENVS = {"dummy": DummyVecEnv, "subproc": SubprocVecEnv}


def wrapped_twice():
    return FrameStackObservation(CountAction(RecordEpisodeStatistics(make()), counts=(4, 12)), 2)


@pytest.fixture(params=VEC_ENVS.values(), ids=VEC_ENVS)
def two_places(request):
    """Two environments in all of Stable-Baselines3's wrappers."""
    kwargs = {"start_method": "forkserver"} if request.param is SubprocVecEnv else {}
    vec_env = VecCheckNan(VecMonitor(request.param([wrapped_twice] * 2, **kwargs)))
    vec_env = VecNormalize(VecFrameStack(vec_env, 2))
    vec_env.seed(0)
    vec_env.reset()
    for actions in ([0, 1], [1, 0], [1, 1]):
        vec_env.step(np.array(actions))
    yield vec_env
    vec_env.close()


def single(index):
    """The same environment by itself."""
    env = wrapped_twice()
    env.reset(seed=index)
    for actions in ([0, 1], [1, 0], [1, 1]):
        env.step(actions[index])
    return env


@pytest.mark.one_in(2)
def test_each_place_of_a_vectorised_environment_is_evaluated_through_its_wrappers(two_places):
    rms = copy.deepcopy(two_places.obs_rms)
    for index in range(2):
        recorder = Recorder(lambda o: np.int64(o.sum() > 0))
        metrics = evaluate_agent(recorder, two_places, "test", index=index)
        assert {seen.shape for seen in recorder.seen} == {(2, 32)}
        env = single(index)
        own = Recorder(lambda _: np.int64(0))
        evaluate_agent(own, env, "test")
        stacked = [
            np.concatenate((before, seen), axis=-1)
            for before, seen in zip([np.zeros((2, 16)), *own.seen], own.seen, strict=False)
        ]
        expected = np.stack([two_places.normalize_obs(one) for one in np.float32(stacked)])
        assert np.allclose(recorder.seen, expected, rtol=1e-4, atol=1e-6)
        actions = iter([recorder.action(seen) for seen in recorder.seen])
        assert evaluate_agent(Recorder(lambda _, a=actions: next(a)), env, "test") == metrics
    assert np.array_equal(two_places.obs_rms.mean, rms.mean)
    assert two_places.training
    two_places.step(np.array([0, 1]))  # the environments live on


@pytest.mark.one_in(2)
def test_evaluate_refuses_an_agent_whose_wrappers_it_bypasses_or_cannot_see(two_places):
    vec_env = two_places.unwrapped
    agent = PPO("MlpPolicy", vec_env, seed=0, device="cpu")
    here = isinstance(vec_env, DummyVecEnv)
    expected = f"got one with {'FrameStackObservation' if here else 'SubprocVecEnv'}$"
    with pytest.raises(ValueError, match=expected):
        trained().unwrapped.evaluate("test", selector=agent)


@pytest.mark.one_in(2)
def test_a_refusal_leaves_the_processes_running(two_places):
    with pytest.raises(ValueError, match=r"action must be an integer in \[0, 1\], got 7$"):
        evaluate_agent(Recorder(lambda _: np.int64(7)), two_places, "test", index=1)
    with pytest.raises(ValueError, match="expected an episode that has ended, got a running one"):
        evaluate_agent(Recorder(), two_places, "test", episode="last", index=0)
    with pytest.raises(ValueError, match="index must be given for 2 environments, got None"):
        evaluate_agent(Recorder(), two_places, "test")
    with pytest.raises(ValueError, match=r"index must be in \[0, 1\], got 2"):
        evaluate_agent(Recorder(), two_places, "test", index=2)
    two_places.step(np.array([0, 1]))


def test_the_last_episode_is_evaluated_after_an_automatic_reset():
    vec_env = DummyVecEnv([lambda: CountAction(make())])
    agent = DQN("MlpPolicy", vec_env, learning_starts=4, seed=0, device="cpu")
    env = vec_env.envs[0].unwrapped
    agent.learn(env.max_steps)
    last = evaluate_agent(agent, vec_env, "test", episode="last")
    assert last != evaluate_agent(agent, vec_env, "test")
    assert last.loss < evaluate_agent(agent, vec_env, "test", episode="running").loss


def test_nothing_that_is_evaluated_changes():
    def wrap(env):
        return CountAction(NormalizeObservation(env), sampling="attended")

    runs = []
    for evaluates in (False, True):
        env = trained(wrap, n_steps=2)
        for _ in range(4):
            if evaluates:
                evaluate_agent(Recorder(lambda _: np.int64(1)), env, "val")
            runs.append(env.step(np.int64(3)))
    for plain, evaluated in zip(runs[:4], runs[4:], strict=True):
        assert np.array_equal(plain[0], evaluated[0])
        assert plain[1:] == evaluated[1:]


class Slow(Recorder):
    def predict(self, *args, **kwargs):
        time.sleep(0.05)
        return super().predict(*args, **kwargs)


def test_the_time_of_an_evaluation_is_not_training_time():
    env = trained(budget="seconds", seconds=1000)
    stopwatch = env.unwrapped.episode.run.stopwatch
    before = stopwatch.training
    started = time.perf_counter()
    evaluate_agent(Slow(of_patches), env, "test")
    assert time.perf_counter() - started > N_BATCHES * 0.05
    assert stopwatch.training - before < 0.2


class EarlyStop(gym.Wrapper):
    """Of the kind that users write: it looks at the loss and ends the episode."""

    def __init__(self, env):
        super().__init__(env)
        self.losses = []

    def step(self, action):
        *results, truncated, info = self.env.step(action)
        self.losses.append(info["loss"])
        return *results, truncated or info["loss"] < 1, info


def test_a_users_wrapper_that_ends_episodes_is_passed_and_unchanged():
    env = trained(EarlyStop)
    agent = PPO("MlpPolicy", trained(), seed=0, device="cpu")
    assert evaluate_agent(agent, env, "test") == env.unwrapped.evaluate("test", selector=agent)
    assert len(env.losses) == 5


class Locked(EarlyStop):
    def __init__(self, env):
        super().__init__(env)
        self.lock = threading.Lock()


class LastReward(gym.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Box(-np.inf, np.inf, (17,), np.float32)

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        return np.append(observation, np.float32(0)), info

    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        return np.append(observation, np.float32(reward)), reward, *rest


class Skipping(gym.Wrapper):
    def step(self, action):
        return np.zeros(16, dtype=np.float32), 0.0, False, False, {}


class Impatient(gym.Wrapper):
    def reset(self, **kwargs):
        self.env.reset(**kwargs)
        observation, *_, info = self.env.step(np.ones(16, dtype=np.int8))
        return observation, info


class Failing(gym.Wrapper):
    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {"weights": info["weights"]}


REFUSED = {
    "a lock": (Locked, "can be copied, got Locked whose lock cannot be: <unlocked"),
    "the reward": (LastReward, "must not observe rewards or losses, .* got NaN"),
    "no steps": (Skipping, "must step the environment in every step, got none"),
    "early steps": (Impatient, "must take steps only for actions, none in reset, got 1"),
    "an error": (Failing, "a split can be shown through, got KeyError: 'weights'"),
    "the time": (
        lambda env: TimeAwareObservation(TimeLimit(env, 9)),
        "must not need the time within a run, .* got TimeAwareObservation",
    ),
    "the time left": (TimeFeatureWrapper, "time within a run, .* got TimeFeatureWrapper"),
    "pictures": (AddRenderObservation, "a split has no picture to render"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_a_split_does_not_have_is_refused_in_one_line(name):
    wrap, reason = REFUSED[name]
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    wrapped = wrap(env)
    with pytest.raises(ValueError, match=reason) as raised:
        evaluate_agent(Recorder(lambda _: np.ones(16, dtype=np.int8)), wrapped, "test")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("env", "kwargs", "reason"),
    [
        (3, {}, "env must be a Gymnasium environment or a vectorised environment of"),
        (gym.make("CartPole-v1"), {}, "env must be a ViTPatchSelectEnv or wrap one, got"),
        (DummyVecEnv([lambda: gym.make("CartPole-v1")]), {}, "env must hold ViTPatchSelectEnv"),
        (make(), {}, "expected a reset before this call, got none"),
        (make(), {"split": "all"}, "split must be one of train, val, test, got 'all'"),
        (make(), {"episode": "first"}, "episode must be one of running, last, got 'first'"),
        (make(), {"index": 1}, r"index must be in \[0, 0\], got 1"),
        (make(), {"index": 0.0}, r"index must be an integer in \[0, 0\], got 0.0"),
        (make(), {"index": False}, r"index must be an integer in \[0, 0\], got False"),
        (closed(), {}, "expected a reset before this call, got a closed environment"),
        (gym.make_vec("CartPole-v1", 2), {}, "or a vectorised environment of Stable-Baselines3"),
    ],
)
def test_bad_arguments_are_named(env, kwargs, reason):
    with pytest.raises(ValueError, match=reason):
        evaluate_agent(Recorder(), env, **{"split": "test", **kwargs})


class Negating(gym.Wrapper):
    """Changes observations in its own methods."""

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        return -observation, info

    def step(self, action):
        observation, *rest = self.env.step(action)
        return -observation, *rest


class Inverting(gym.Wrapper):
    """Changes actions in its own method."""

    def step(self, action):
        return self.env.step(1 - np.asarray(action))


BYPASSED = {
    "NormalizeObservation": NormalizeObservation,
    "CountAction": CountAction,
    "FrameStackObservation": lambda env: FrameStackObservation(env, 2),
    "FlattenObservation": FlattenObservation,
    "DtypeObservation": lambda env: DtypeObservation(env, np.float64),
    "EarlyStop": EarlyStop,
    "Negating": Negating,
    "Inverting": Inverting,
    "VecNormalize": lambda env: VecNormalize(DummyVecEnv([lambda: env])),
    "VecFrameStack": lambda env: VecFrameStack(DummyVecEnv([lambda: env]), 2),
}


@pytest.mark.long
@pytest.mark.parametrize("name", list(BYPASSED))
def test_evaluate_refuses_an_agent_whose_wrappers_it_would_bypass(name):
    env = trained()
    agent = PPO("MlpPolicy", BYPASSED[name](env), seed=0, device="cpu")
    expected = rf"use vit_patch_env.evaluate_agent\(agent, env, split\)\), got one with {name}$"
    with pytest.raises(ValueError, match=expected):
        env.unwrapped.evaluate("test", selector=agent)
    evaluate_agent(agent, agent.get_env(), "test")


LIBRARY = {name: wrap for name, wrap in TRANSPARENT.items() if name not in ("flatten", "float64")}


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "wrap",
    [
        *LIBRARY.values(),
        lambda env: VecNormalize(DummyVecEnv([lambda: env]), norm_obs=False),
        lambda env: VecMonitor(DummyVecEnv([lambda: env])),
    ],
)
def test_evaluate_takes_an_agent_whose_wrappers_change_no_observation(wrap):
    env = trained()
    agent = PPO("MlpPolicy", wrap(env), seed=0, device="cpu")
    env.unwrapped.evaluate("test", selector=agent)


def test_actions_of_another_range_are_rescaled():
    env = trained(lambda env: RescaleAction(TopKAction(env), np.float32(0), np.float32(1)))
    action = np.append(np.linspace(1, 0, 16), 0.4).astype(np.float32)
    mask = env.unwrapped.action_space.sample() * 0
    mask[:7] = 1
    expected = env.unwrapped.evaluate("test", selector=Recorder(lambda _: mask))
    assert evaluate_agent(Recorder(lambda _: action), env, "test") == expected


class OnlyFirst(gym.Wrapper):
    """Excludes all patches but the first eight."""

    def action_masks(self):
        masks = self.env.get_wrapper_attr("action_masks")().reshape(-1, 2)
        masks[8:, 1] = False
        return masks.ravel()


@pytest.mark.long
@pytest.mark.parametrize(
    "wrap",
    [OnlyFirst, lambda env: ActionMasker(env, lambda one: OnlyFirst(one).action_masks())],
)
def test_masked_agents_pick_only_what_may_be_picked(wrap):
    env = wrap(make())
    agent = MaskablePPO("MlpPolicy", env, **FEW, seed=0, device="cpu")
    agent.learn(16)
    picked = []
    predict = agent.predict

    def watched(observation, state=None, episode_start=None, deterministic=False, *, action_masks):
        result = predict(observation, state, episode_start, deterministic, action_masks)
        picked.append(result[0])
        return result

    agent.predict = watched
    metrics = evaluate_agent(agent, env, "test")
    assert np.stack(picked).shape == (N_BATCHES, 16)
    assert not np.stack(picked)[:, 8:].any()
    assert evaluate_agent(agent, DummyVecEnv([lambda: env]), "test") == metrics


def test_every_patch_may_be_dropped_or_kept_unless_it_is_the_only_one():
    assert make().unwrapped.action_masks().tolist() == [True] * 32
    single = make(patch_size=32, n_patches_desired=1).unwrapped
    assert single.action_masks().tolist() == [False, True]
    assert CountAction(make(), counts=(4, 12)).action_masks().tolist() == [True, True]


@pytest.mark.long
def test_maskable_ppo_learns_from_masks():
    env = make(epochs=2)
    agent = MaskablePPO("MlpPolicy", env, **FEW, seed=0, device="cpu")
    agent.learn(32)
    assert agent.num_timesteps == 32
    assert env.unwrapped.evaluate("test", selector=agent) == evaluate_agent(agent, env, "test")


def test_an_episode_that_ended_early_is_said():
    env = make()
    env.reset(seed=0)
    env.step(np.ones(16))
    env.reset()
    with pytest.warns(
        UserWarning, match=r"the last episode ended after \d+ % of its budget"
    ) as said:
        evaluate_agent(Recorder(), env, "val", episode="last")
    assert said[0].filename == __file__


class Drawing(gym.Wrapper):
    """Draws from every generator that it is given."""

    def reset(self, **kwargs):  # the seed is not passed on
        observation, info = self.env.reset()
        return self.changed(observation), info

    def step(self, action):
        if self.np_random.random() < 0.5:
            action = self.env.action_space.sample()
        observation, *rest = self.env.step(action)
        return self.changed(observation), *rest

    def changed(self, observation):
        noise = np.random.normal(size=16) + torch.rand(16).numpy() + random.random()  # noqa: NPY002
        return (observation + noise + self.observation_space.sample()).astype(np.float32)


class DrawingVec(VecFrameStack):
    """Draws in the process of the agent."""

    def step_wait(self):
        observations, *rest = super().step_wait()
        noise = np.random.normal() + self.action_space.sample().sum()  # noqa: NPY002
        return observations + np.float32(noise), *rest


def own_spaces(env):
    """Wrappers with spaces of their own, which have no seed yet."""
    env.observation_space = spaces.Box(-1, 1, (16,), np.float32)
    env.action_space = spaces.MultiBinary(16)
    return env


def global_states():
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    return legacy["state"]["key"].tolist(), torch.get_rng_state().tolist(), random.getstate()


def drawing(own):
    """A trained environment in such a wrapper, which has a seed all the same."""

    def wrap(env):
        env.unwrapped.reset(seed=0)
        return Drawing(own_spaces(Negating(env)) if own else env)

    env = trained(wrap, observation="attention_received")
    env.observation_space.seed(0)
    return env


@pytest.mark.long
@pytest.mark.parametrize("own", [False, True], ids=["inherited spaces", "own spaces"])
@pytest.mark.parametrize("vectorised", [False, True])
def test_whatever_is_drawn_from_is_seeded_and_left_as_it_was(own, vectorised):
    env = drawing(own)
    if vectorised:
        env = DrawingVec(DummyVecEnv([lambda: env]), 2)
    seen = []
    for _ in range(2):
        before = global_states()
        recorder = Recorder(lambda o: o.ravel()[-16:] > o.mean() + random.random())
        metrics = evaluate_agent(recorder, env, "test")
        assert global_states() == before
        seen.append(([observation.tobytes() for observation in recorder.seen], metrics))
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
    assert seen[0] == seen[1]
    assert len(set(seen[0][0])) == N_BATCHES


@pytest.mark.long
@pytest.mark.parametrize("own", [False, True], ids=["inherited spaces", "own spaces"])
def test_what_a_wrapper_draws_does_not_change_the_run(own):
    runs = []
    for evaluates in (False, True):
        env = drawing(own)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        if evaluates:
            evaluate_agent(Recorder(of_patches), env, "val")
        runs.append([env.step(np.ones(16, np.int8))[0].tobytes() for _ in range(3)])
    assert runs[0] == runs[1]


class Scaled(gym.Wrapper):
    """Changes nothing, but other wrappers ask it."""

    scale = -100.0


class Scaling(gym.ObservationWrapper):
    def observation(self, observation):
        return np.float32(observation * getattr(self.env, "scale", 1.0))


def test_wrappers_have_the_attributes_of_those_beneath():
    env = trained(lambda env: Scaling(Scaled(env)))
    recorder = Recorder(of_patches)
    evaluate_agent(recorder, env, "test")
    assert np.allclose(recorder.seen, -100 * observations(env))


class Asking(gym.Wrapper):
    """Needs what the environment says of itself and of its steps."""

    def reset(self, **kwargs):
        observation, self.of_reset = self.env.reset(**kwargs)
        self.facts = {
            name: getattr(self.unwrapped, name)
            for name in (*vars(make().unwrapped.config), "n_patches", "max_steps", "config", "spec")
        }
        return observation, self.of_reset

    def step(self, action):
        *results, info = self.env.step(action)
        Asking.heard.append((self.facts, self.of_reset, info))
        return *results, info


def test_a_split_has_the_facts_of_the_environment_and_every_entry_of_info():
    Asking.heard = []
    env = trained(Asking, n_steps=1)
    evaluate_agent(Recorder(of_patches), env, "test")
    (facts, of_reset, info), *of_split = Asking.heard
    assert len(of_split) == N_BATCHES
    for facts_of_split, of_reset_of_split, info_of_split in of_split:
        assert facts_of_split == facts
        assert set(of_reset_of_split) == set(of_reset)
        assert of_reset_of_split["budget_steps"] == of_reset["budget_steps"]
        assert set(info_of_split) == set(info)
        assert info_of_split["n_selected_mean"] == 8


def test_an_agents_own_error_is_not_that_of_wrappers():
    wrong = Recorder(lambda _: np.ones(7))
    for wrap in (lambda env: env, lambda env: FrameStackObservation(env, 2)):
        env = trained(wrap)
        for one in (env, DummyVecEnv([lambda env=env: env])):
            with pytest.raises(ValueError, match=r"^action must have shape \(16,\), got \(7,\)$"):
                evaluate_agent(copy.deepcopy(wrong), one, "test")


def test_the_error_of_an_agent_is_its_own():
    def fail(_):
        raise KeyError("weights")

    with pytest.raises(KeyError, match="weights"):
        evaluate_agent(Recorder(fail), trained(Negating), "test")


class Raising(gym.Wrapper):
    def __init__(self, env, kind=KeyError, after=5):
        super().__init__(env)
        self.kind, self.left = kind, after

    def step(self, action):
        self.left -= 1
        if self.left < 0:
            raise self.kind("weights\nand more")
        return self.env.step(action)


def test_the_error_of_a_wrapper_is_kept_as_the_cause():
    with pytest.raises(ValueError, match="shown through, got KeyError: ") as raised:
        evaluate_agent(Recorder(of_patches), trained(Raising), "test")
    assert isinstance(raised.value.__cause__, KeyError)
    with pytest.raises(MemoryError):
        evaluate_agent(Recorder(of_patches), trained(lambda env: Raising(env, MemoryError)), "test")


def test_errors_of_the_environment_are_themselves(monkeypatch):
    env = trained(CountAction)

    def fail(*_):
        raise AssertionError("a bug")

    monkeypatch.setattr(type(env.unwrapped.episode), "evaluate_masks", fail)
    with pytest.raises(AssertionError, match="a bug"):
        evaluate_agent(Recorder(lambda _: np.int64(1)), env, "test")


def raising():
    return Raising(make(), after=2)


@pytest.mark.long
def test_errors_in_other_processes_come_with_their_traceback():
    vec_env = SubprocVecEnv([raising], start_method="forkserver")
    vec_env.reset()
    vec_env.step(np.ones((1, 16), dtype=np.int8))
    with pytest.raises(ValueError, match="shown through, got KeyError: ") as raised:
        evaluate_agent(Recorder(of_patches), vec_env, "test")
    assert "in step\n    raise self.kind" in str(raised.value.__cause__)
    vec_env.step(np.ones((1, 16), dtype=np.int8))
    vec_env.close()


@pytest.mark.long
def test_other_environments_in_other_processes_are_refused_and_live_on():
    vec_env = SubprocVecEnv([lambda: gym.make("CartPole-v1")], start_method="forkserver")
    with pytest.raises(ValueError, match="env must hold ViTPatchSelectEnv"):
        evaluate_agent(Recorder(), vec_env, "test")
    assert vec_env.reset().shape == (1, 4)
    vec_env.close()


@pytest.mark.long
def test_a_refused_environment_is_not_kept():
    vec_env = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    env = weakref.ref(vec_env.envs[0].unwrapped)
    with pytest.raises(ValueError, match="env must hold ViTPatchSelectEnv"):
        evaluate_agent(Recorder(), vec_env, "test")
    del vec_env
    gc.collect()
    assert env() is None


class Applying(gym.Wrapper):
    def apply(self, function):
        return "a user's"


class Made(gym.ObservationWrapper):
    def __new__(cls, env):
        return super().__new__(cls)

    def observation(self, observation):
        return observation


class Forwarding(gym.Wrapper):
    """Has every attribute of what is beneath, as Gymnasium's wrappers once had."""

    def __getattr__(self, name):
        return getattr(self.env, name)


@pytest.mark.long
@pytest.mark.parametrize("wrap", [Applying, Made, Forwarding])
def test_wrappers_may_have_unusual_methods(wrap):
    env = trained(wrap)
    expected = env.unwrapped.evaluate("test", selector=Recorder(of_patches))
    for one in (env, DummyVecEnv([lambda: env])):
        assert evaluate_agent(Recorder(of_patches), one, "test") == expected


class Holding(gym.Wrapper):
    """Holds what is beneath it in many ways."""

    def __init__(self, env):
        super().__init__(env)
        self.base = env.unwrapped
        self.steps = {"beneath": lambda action: env.step(action)}
        self.masks = env.unwrapped.action_masks
        self.myself = self

    def step(self, action):
        assert self.myself is self
        assert self.masks().shape == (2 * self.base.n_patches,)
        return self.steps["beneath"](action)


@pytest.mark.long
def test_wrappers_that_hold_the_environment_hold_the_split():
    env = trained(lambda env: Holding(Negating(env)))
    steps_done = env.unwrapped.steps_done
    evaluate_agent(Recorder(of_patches), env, "test")
    assert env.unwrapped.steps_done == steps_done


SCRIPT = """
import threading, sys
import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv
from tests.test_agent_evaluation import Recorder, make, of_patches, trained
from vit_patch_env import evaluate_agent

factor, images, lock = 2.0, np.zeros(16), threading.Lock()

class Scale(gym.Wrapper):
    n_steps = 0

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        return np.float32(observation * factor), info

    def step(self, action):
        Scale.n_steps += 1
        Scale.last = action
        with lock:
            observation, *rest = self.env.step(action)
        return np.float32(observation * factor), *rest

def check(env):
    methods, values = (Scale.step, Scale.reset), dict(vars(Scale))
    for recorder in (Recorder(of_patches), Recorder(of_patches)):
        evaluate_agent(recorder, env, "test")
    assert (Scale.step, Scale.reset) == methods
    assert Scale.step.__globals__ is globals()
    assert dict(vars(Scale)) == values, (vars(Scale), values)

if __name__ == "__main__":
    env = trained(Scale)
    check(env)
    assert Scale.n_steps == 5
    factor = 0.0
    assert not env.reset(seed=0)[0].any()
    vec_env = SubprocVecEnv([lambda: Scale(make())], start_method="fork")
    vec_env.reset()
    vec_env.step(np.ones((1, 16), dtype=np.int8))
    check(vec_env)
    assert vec_env.get_attr("n_steps") == [Scale.n_steps + 1]
    vec_env.close()
    print("unchanged")
"""


@pytest.mark.long
def test_a_scripts_own_classes_stay_as_they_are(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "unchanged\n", done.stderr
