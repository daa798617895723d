"""ViTPatchSelectEnv.save and load."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import TINY
from vit_patch_env import SimpleViT, ViTPatchSelectEnv


def play(env, n_steps, seed=0):
    """The results of random actions, the same for the same seed."""
    rng = np.random.default_rng(seed)
    said = []
    for _ in range(n_steps):
        observation, reward, *ends, info = env.step((rng.random(16) < 0.5).astype(np.int8))
        said.append((observation.tolist(), reward, ends, info))
    return said


class WithDropout(SimpleViT):
    """A user's own model, which uses torch's global generator."""

    def pool(self, tokens):
        return nn.functional.dropout(super().pool(tokens), training=self.training)


def dropout_model(n_classes, channels):
    return WithDropout(
        n_classes=n_classes, channels=channels, image_size=32, patch_size=8, dim=16, depth=1,
        heads=2, dim_head=8, mlp_dim=16,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"precision": "bf16", "optimizer": "adamw", "schedule": "cosine", "warmup_epochs": 1},
        {"budget": "flops", "model": "ats_vit"},
        {"model": "patch_dropout"},
        {"reward": "validation", "reward_every": 3, "observation": "attention_received+run"},
        {"reward": "progress", "observation": "none+run"},
    ],
)
def test_a_loaded_run_continues_identically(kwargs, tmp_path):
    env = ViTPatchSelectEnv(**TINY | kwargs)
    env.reset(seed=1)
    *_, (seen, *_) = play(env, 5)
    shown = env.episode.patch_mask
    env.save(tmp_path / "run")
    expected = play(env, 8, seed=1)
    other = ViTPatchSelectEnv(**TINY | kwargs)
    observation, info = other.load(tmp_path / "run")
    assert observation.tolist() == seen
    assert info["progress"] == pytest.approx(5 / 14) or kwargs.get("budget") == "flops"
    assert np.array_equal(other.episode.patch_mask, shown)
    assert play(other, 8, seed=1) == expected
    assert other.episode.flops() == env.episode.flops()
    assert other.evaluate("val") == env.evaluate("val")
    # The next episode too.
    assert env.reset()[0].tolist() == other.reset()[0].tolist()
    assert env.action_space.sample().tolist() == other.action_space.sample().tolist()


def test_saving_changes_nothing(tmp_path):
    courses = []
    for saves in (False, True):
        env = ViTPatchSelectEnv(**TINY)
        env.reset(seed=1)
        course = play(env, 3)
        if saves:
            env.save(tmp_path / "run")
        courses.append(course + play(env, 3, seed=1))
    assert courses[0] == courses[1]


def test_the_episode_that_ended_is_saved_too(tmp_path):
    env = ViTPatchSelectEnv(**TINY)
    env.reset(seed=0)
    assert play(env, 14)[-1][2] == [False, True]
    env.save(tmp_path / "end")
    figures = env.last_episode.evaluate("test")
    env.reset()
    play(env, 2)
    env.save(tmp_path / "later")
    for name in ("end", "later"):
        other = ViTPatchSelectEnv(**TINY)
        other.load(tmp_path / name)
        assert other.last_episode.evaluate("test") == figures
    assert other.steps_done == 2


def test_a_budget_of_seconds_resumes(tmp_path):
    kwargs = TINY | {"budget": "seconds", "seconds": 50.0}
    env = ViTPatchSelectEnv(**kwargs)
    env.reset(seed=0)
    play(env, 2)
    env.episode.run.stopwatch._started -= 20  # as if it had trained for so long
    env.save(tmp_path / "run")
    other = ViTPatchSelectEnv(**kwargs)
    other.load(tmp_path / "run")
    assert 0.4 < play(other, 1)[0][3]["progress"] < 0.6


def test_excluded_time_is_not_training_time():
    env = ViTPatchSelectEnv(**TINY)
    env.reset(seed=0)
    play(env, 2)
    env.exclude_time(1000)
    assert env.episode.timings.excluded_seconds >= 1000
    assert env.episode.run.stopwatch.training < 0
    assert env.episode.timings.train_seconds < 100


def test_a_users_model_with_its_own_generator_is_restored(tmp_path):
    env = ViTPatchSelectEnv(**TINY | {"model": dropout_model})
    env.reset(seed=1)
    play(env, 2)
    env.save(tmp_path / "run")
    drawn = torch.get_rng_state()
    expected = play(env, 3)
    other = ViTPatchSelectEnv(**TINY | {"model": dropout_model})
    other.load(tmp_path / "run")
    torch.set_rng_state(drawn)  # torch's global generator is the script's, not the environment's
    assert play(other, 3) == expected


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dim": 32}, "dim must be that of the saved run, 16, got 32"),
        ({"learning_rate": 1e-4}, "learning_rate must be that of the saved run, 0.001, got 0.0001"),
        ({"model": "vit"}, "model must be that of the saved run, simple_vit, got vit"),
        ({"train_fraction": 0.5}, "train_fraction must be that of the saved run, 1.0, got 0.5"),
        ({"dataset": "digits"}, "dataset must be that of the saved run, synthetic, got digits"),
    ],
)
def test_other_arguments_are_named(kwargs, message, tmp_path):
    env = ViTPatchSelectEnv(**TINY)
    env.reset(seed=0)
    env.save(tmp_path / "run")
    other = ViTPatchSelectEnv(**TINY | kwargs)
    with pytest.raises(ValueError, match=message):
        other.load(tmp_path / "run")
    with pytest.raises(ValueError, match="expected a reset before this call"):
        other.evaluate("val")


def test_other_images_are_detected(make_folder, tmp_path):
    kwargs = TINY | {"dataset": "folder", "batch_size": 8}
    env = ViTPatchSelectEnv(**kwargs, data_dir=str(make_folder(n_images=20)))
    env.reset(seed=0)
    env.save(tmp_path / "run")
    same = ViTPatchSelectEnv(**kwargs, data_dir=str(make_folder(name="moved", n_images=20)))
    same.load(tmp_path / "run")
    other = ViTPatchSelectEnv(**kwargs, data_dir=str(make_folder(name="more", n_images=30)))
    with pytest.raises(ValueError, match="train images must be that of the saved run, 36, got 54"):
        other.load(tmp_path / "run")


def test_a_failed_load_leaves_the_run_as_it_was(tmp_path):
    env = ViTPatchSelectEnv(**TINY)
    env.reset(seed=0)
    state = env.state_dict()
    broken = copy.deepcopy(state)
    broken["episode"]["run"]["trainer"]["model"].popitem()
    expected = env.evaluate("val")
    for damage in (broken, {}, {**state, "np_random": None}, {**state, "last_episode": 5}):
        with pytest.raises(ValueError, match="expected the state of a run"):
            env.load_state_dict(damage)
        assert env.evaluate("val") == expected


def test_before_the_first_reset_there_is_nothing_to_save(tiny_env, tmp_path):
    with pytest.raises(ValueError, match="expected a reset before this call"):
        tiny_env.save(tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_close_frees_everything_and_a_reset_starts_anew():
    env = ViTPatchSelectEnv(**TINY)
    first, _ = env.reset(seed=0)
    play(env, 14)
    env.reset()
    held = [
        weakref.ref(thing)
        for thing in (env.episode.model, env.last_episode.model, env.data.train.images)
    ]
    env.close()
    gc.collect()
    assert [one() for one in held] == [None] * 3
    with pytest.raises(ValueError, match="expected a reset before this call"):
        env.step(np.ones(16, dtype=np.int8))
    env.close()
    assert np.array_equal(env.reset(seed=0)[0], first)
