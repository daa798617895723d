"""Snapshots of objects and generators, and the recorder of transitions."""

import random

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.conftest import TINY
from tests.interrupted_runs import advance_generators
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import GrowingOptions
from vit_patch_env.checks import InputError
from vit_patch_env.experiments.checkpoints.generators import (
    restore_generators,
    snapshot_generators,
)
from vit_patch_env.experiments.checkpoints.recorder import TransitionRecorder
from vit_patch_env.experiments.checkpoints.snapshot import restore, snapshot
from vit_patch_env.system.files import load_state, save_state


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_numpy_generators_of_every_kind_are_restored(bits, tmp_path):
    generator, other = np.random.Generator(bits(1)), np.random.Generator(bits(2))
    save_state(tmp_path / "state", snapshot(generator))
    restore(other, load_state(tmp_path / "state"))
    assert other.random() == generator.random()


def test_objects_that_never_change_are_replaced():
    """One object in two places, in one of which it is a constant of the program."""

    class Holder:
        def __init__(self, first, second):
            self.first, self.second = first, second

    few, many = GrowingOptions(first_share=0.25), GrowingOptions(first_share=0.5)
    state = snapshot(Holder(few, few))
    other = Holder(many, many)
    restore(other, state)
    assert (other.first, other.second) == (few, few)
    assert many == GrowingOptions(first_share=0.5)
    with pytest.raises(InputError, match=r"first must be a .*GrowingOptions, .*, got 1"):
        restore(Holder(1, 1), state)


def test_global_generators_are_restored():
    state = snapshot_generators()
    expected = random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002
    advance_generators()
    restore_generators(state)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected  # noqa: NPY002


def test_errors_name_what_cannot_be_saved():
    class Odd:
        lock = None

        def __init__(self, thing):
            self.thing = [thing]

    with pytest.raises(ValueError, match=r"saved in Odd\.thing\[0\], got \{1, 2\}"):
        snapshot(Odd({1, 2}))
    with pytest.raises(ValueError, match=r"saved in Odd\.thing\[0\], got <random.Random"):
        snapshot(Odd(random.Random(1)))
    with pytest.raises(ValueError, match=r"expected numbers in Odd\.thing\[0\], got an array of"):
        snapshot(Odd(np.array(["a"])))
    with pytest.raises(ValueError, match=r"as keys of Odd\.thing\[0\], got \(1, 2\)"):
        snapshot(Odd({(1, 2): 3}))
    with pytest.raises(ValueError, match=r"Odd\.thing\[0\] must be a .*Odd, .* got None"):
        restore(Odd(None), snapshot(Odd(Odd(1))))


@pytest.mark.parametrize(("name", "value"), [("use_sde", True), ("gamma", 0.5), ("n_steps", 10**9)])
def test_an_algorithm_of_other_arguments_is_refused(name, value):
    env = gym.make("CartPole-v1")
    state = snapshot(PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu"))
    state[3][name] = value
    with pytest.raises(InputError, match=rf"PPO\.{name} must be .*, as in this run, got {value}"):
        restore(PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu"), state)


def test_a_space_that_was_never_sampled_stays_unseeded():
    assert restore(Discrete(3), snapshot(Discrete(3)))._np_random is None


def test_the_recorder_replays_transitions():
    env = DummyVecEnv([lambda: ViTPatchSelectEnv(**TINY)])
    recorder = TransitionRecorder(env)
    recorder.seed(1)
    recorder.reset()
    masks = np.ones((1, 16), dtype=np.int8)
    first = [recorder.step(masks) for _ in range(3)]
    transitions = list(recorder.transitions)
    first[0][1][0] = 1000  # as an algorithm may
    recorder.clear()
    recorder.replay(transitions)
    n_steps_done = env.envs[0].unwrapped.steps_done
    replayed = [recorder.step(masks) for _ in range(3)]
    assert env.envs[0].unwrapped.steps_done == n_steps_done == 3
    assert replayed[0][1][0] != 1000
    assert [one[3][0]["loss"] for one in replayed] == [one[3][0]["loss"] for one in first]
    assert recorder.n_to_replay == 0
    recorder.step(masks)
    assert env.envs[0].unwrapped.steps_done == 4
