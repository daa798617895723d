"""Arguments can be read from an environment, and not assigned."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.arguments import declared
from vit_patch_env.checks import ArgumentError
from vit_patch_env.config import EnvConfig

ALL = np.ones(16, dtype=np.int8)
ARGUMENTS = [one.name for one in declared(EnvConfig) if one.name != "render_mode"]


def make(**kwargs):
    return gym.make("ViTPatchSelect-v0", **{**TINY, **kwargs})


@pytest.mark.parametrize("name", [*ARGUMENTS, "config", "n_patches"])
def test_an_argument_is_read_and_not_assigned(name, tiny_env):
    value = getattr(tiny_env, name)
    if name not in ("config", "n_patches", "device", "precision"):
        assert value == getattr(tiny_env.config, name)
    with pytest.raises(
        ArgumentError, match=f"^{name} cannot be assigned: make a new env"
    ) as raised:
        setattr(tiny_env, name, value)
    assert "\n" not in str(raised.value)
    assert getattr(tiny_env, name) is value


def test_an_assignment_that_is_refused_leaves_the_reward():
    env, plain = make(alpha=0.2), make(alpha=0.2)
    for one in (env, plain):
        one.reset(seed=0)
    with pytest.raises(ValueError, match="alpha cannot be assigned"):
        env.unwrapped.alpha = 1.0
    with pytest.raises(ValueError, match="alpha cannot be assigned"):
        env.set_wrapper_attr("alpha", 1.0)
    assert env.get_wrapper_attr("alpha") == 0.2
    assert env.step(ALL)[1] == plain.step(ALL)[1]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*ERROR:UserWarning")
@pytest.mark.parametrize("vectorization_mode", ["sync", "async"])
def test_gymnasiums_vector_environments_refuse_it(vectorization_mode):
    envs = gym.make_vec(
        "ViTPatchSelect-v0", num_envs=2, vectorization_mode=vectorization_mode, **TINY
    )
    assert envs.get_attr("n_patches_desired") == (8, 8)
    with pytest.raises(ValueError, match="n_patches_desired cannot be assigned"):
        envs.set_attr("n_patches_desired", 4)
    envs.close()


def test_stable_baselines_environments_refuse_it():
    envs = DummyVecEnv([lambda: ViTPatchSelectEnv(**TINY)])
    assert envs.get_attr("batch_size") == [64]
    with pytest.raises(ValueError, match="batch_size cannot be assigned"):
        envs.set_attr("batch_size", 32)


def test_other_attributes_are_the_users(tiny_env):
    tiny_env.note = "mine"
    tiny_env.render_mode = "rgb_array"
    tiny_env.reset(seed=0)
    assert tiny_env.render().dtype == np.uint8
    for other in (copy.deepcopy(tiny_env), pickle.loads(pickle.dumps(tiny_env))):
        assert (other.note, other.alpha, other.epochs) == ("mine", 0.2, 2)
        assert other.step(ALL)[1] == copy.deepcopy(tiny_env).step(ALL)[1]
