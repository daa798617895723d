"""An environment and its copies go on independently, each as if there were no other."""

import copy
import pickle

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from tests.interrupted_runs import identical
from vit_patch_env import SimpleViT, ViTPatchSelectEnv

ACTIONS = np.random.default_rng(0).random((7, 16)) < 0.5


class Counting(SimpleViT):
    """A user's model, with a state that it hands out and takes over as it is."""

    def __init__(self, n_classes, channels):
        super().__init__(
            n_classes=n_classes, channels=channels, patch_size=8, dim=16, depth=1, heads=2,
            dim_head=8, mlp_dim=16,
        )  # fmt: skip
        self.batches = torch.zeros(1)

    def forward(self, images, keep=None):
        if self.training:
            self.batches += 1
        return super().forward(images, keep) / (1 + self.batches)

    def get_extra_state(self):
        return self.batches

    def set_extra_state(self, state):
        self.batches = state


VARIANTS = {
    "paper": {},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine"},
    "flops": {"budget": "flops", "reward": "validation", "reward_every": 2},
    "progress": {"observation": "attention_received+run", "reward": "progress"},
    "generator": {"model": "patch_dropout"},
    "own": {"model": Counting},
    "augmented": {"augment": "randaugment", "mixup": 0.2, "random_erasing": 0.3},
}

PACKAGES = {"generator": "timm"}


def make(**kwargs):
    return ViTPatchSelectEnv(**{**TINY, **kwargs})


def loaded(env, state):
    other = make(**{name: getattr(env.config, name) for name in VARIANT_ARGUMENTS})
    other.load_state_dict(state)
    return other


VARIANT_ARGUMENTS = sorted({name for kwargs in VARIANTS.values() for name in kwargs})

COPIES = {
    "loaded": lambda env: loaded(env, env.state_dict()),
    "loaded from a copy": lambda env: loaded(env, copy.deepcopy(env.state_dict())),
    "copied": copy.deepcopy,
    "unpickled": lambda env: pickle.loads(pickle.dumps(env)),
}


def begun(**kwargs):
    env = make(**kwargs)
    env.reset(seed=1)
    for action in ACTIONS[:3]:
        env.step(action)
    return env


def stepped(env, action):
    """What a step returns, and what the run has become, which are compared to the last bit."""
    observation, reward, *_, info = env.step(action)
    run = env.episode.run.state_dict()
    kept = {name: run[name] for name in ("trainer", "stream", "steps_done", "progress")}
    return copy.deepcopy((torch.from_numpy(observation), reward, info, kept))


@pytest.mark.one_in(6)
@pytest.mark.parametrize(
    ("variant", "made"),
    [
        *((variant, "loaded") for variant in VARIANTS),
        *(
            (variant, made)
            for variant in ("paper", "generator")
            for made in ("copied", "unpickled")
        ),
    ],
)
def test_an_environment_and_its_copy_go_on_independently(variant, made):
    if variant in PACKAGES:
        pytest.importorskip(PACKAGES[variant])
    kwargs = VARIANTS[variant]
    plain, env = begun(**kwargs), begun(**kwargs)
    other = COPIES[made](env)
    for action in ACTIONS[3:]:
        expected = stepped(plain, action)
        assert identical(stepped(other, action), expected)
        assert identical(stepped(env, action), expected)
    assert identical(env.episode.means(), plain.episode.means())
    assert identical(other.episode.means(), plain.episode.means())


def test_two_environments_of_a_state_go_on_independently():
    plain = begun()
    state = begun().state_dict()
    one, other = make(), make()
    one.load_state_dict(state)
    other.load_state_dict(state)
    for action in ACTIONS[3:]:
        expected = stepped(plain, action)
        assert identical(stepped(one, action), expected)
        assert identical(stepped(other, action), expected)


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_environment_may_return_to_an_earlier_state(variant):
    """More than once: the state is one of the time when it was asked for."""
    if variant in PACKAGES:
        pytest.importorskip(PACKAGES[variant])
    env = begun(**VARIANTS[variant])
    state = env.state_dict()
    expected = [stepped(env, action) for action in ACTIONS[3:6]]
    for _ in range(2):
        env.load_state_dict(state)
        assert identical([stepped(env, action) for action in ACTIONS[3:6]], expected)


def test_the_episode_that_ended_is_not_changed_by_the_environment_it_came_from():
    env = begun(epochs=1)
    for action in ACTIONS[3:]:
        env.step(action)
    before = env.evaluate("val", episode="last")
    env.reset()
    env.step(ACTIONS[0])
    other = make(epochs=1)
    other.load_state_dict(env.state_dict())
    assert stepped(other, ACTIONS[1])[1] == stepped(env, ACTIONS[1])[1]
    assert other.np_random.random() == env.np_random.random()
    env.reset()
    assert other.evaluate("val", episode="last") == before


@pytest.mark.one_in(4)
@pytest.mark.parametrize("made", COPIES)
def test_a_copy_that_is_made_under_inference_mode_trains(made):
    plain, env = begun(), begun()
    with torch.inference_mode():
        other = COPIES[made](env)
    for action in ACTIONS[3:]:
        expected = stepped(plain, action)
        assert identical(stepped(other, action), expected)
        assert identical(stepped(env, action), expected)
    assert other.evaluate("val") == plain.evaluate("val")
    assert np.array_equal(other.reset()[0], plain.reset()[0])
    assert identical(stepped(other, ACTIONS[0]), stepped(plain, ACTIONS[0]))


def test_a_copy_of_a_copy_of_inference_mode_trains():
    plain, env = begun(), begun()
    with torch.inference_mode():
        other = pickle.loads(pickle.dumps(copy.deepcopy(env)))
        assert identical(stepped(other, ACTIONS[3]), stepped(plain, ACTIONS[3]))
        last = copy.deepcopy(other)
    assert identical(stepped(last, ACTIONS[4]), stepped(plain, ACTIONS[4]))


def test_a_copy_made_under_inference_mode_has_its_images_once():
    env = begun()
    with torch.inference_mode():
        other = copy.deepcopy(env)
    assert other.episode.run.stream.images is other.data.train.images
    assert other.episode.run.flop_meter.model is other.episode.model
