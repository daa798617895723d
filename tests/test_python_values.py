"""Values that Python has types of its own for, and defaults that adapt to other values."""

import json
from pathlib import Path

import gymnasium as gym
import pytest
import torch

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv, load_dataset
from vit_patch_env.arguments import declared
from vit_patch_env.checks import ArgumentError, check, describe
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.cli import parse
from vit_patch_env.experiments.options.commands import EvaluateOptions, TrainOptions
from vit_patch_env.experiments.options.saved import train_options
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.training.precision import resolve_device


def test_the_folder_of_images_may_be_a_path(make_folder):
    folder = make_folder(n_images=40, size=(32, 32))
    given = {**TINY, "dataset": "folder", "data_dir": folder, "batch_size": 8}
    env = ViTPatchSelectEnv(**given)
    assert env.config.data_dir == str(folder)
    made = gym.make("ViTPatchSelect-v0", **given)
    made.reset(seed=0)
    assert len(made.unwrapped.data.train.labels) == len(env.data.train.labels) > 0
    assert len(load_dataset("folder", data_dir=folder, image_size=32).train.labels) > 0


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_the_device_may_be_a_device(device):
    env = ViTPatchSelectEnv(**TINY | {"device": device})
    assert env.config.device == "cpu"
    assert env.device == torch.device("cpu") == resolve_device(device)
    made = gym.make("ViTPatchSelect-v0", **TINY | {"device": device, "data_dir": Path("a")})
    assert made.unwrapped.device == torch.device("cpu")
    again = gym.make(gym.envs.registration.EnvSpec.from_json(made.spec.to_json()))
    assert again.spec == made.spec
    assert again.unwrapped.config == made.unwrapped.config


def test_a_device_that_cannot_be_used_is_refused():
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:<n>, got 'meta'"):
        ViTPatchSelectEnv(**TINY | {"device": torch.device("meta")})


def test_options_take_paths_and_devices_as_well():
    options = EvaluateOptions(
        run=Path("runs/a"), data_dir=Path("images"), device=torch.device("cuda", 1)
    )
    assert (options.run, options.data_dir, options.device) == ("runs/a", "images", "cuda:1")
    assert TrainOptions(out=Path("runs/a")).out == "runs/a"


def test_numbers_are_no_paths():
    with pytest.raises(ArgumentError, match="data_dir must be a path or None, got 3"):
        EnvConfig(data_dir=3)
    with pytest.raises(ArgumentError, match="epochs must be a number"):
        EnvConfig(epochs=Path("3"))


@pytest.mark.parametrize(
    ("image_size", "patch_size", "n_desired"),
    [(32, 4, 40), (28, 7, 10), (28, 4, 31), (32, 8, 10), (64, 4, 160), (8, 8, 1), (16, 8, 2)],
)
def test_the_default_number_of_patches_is_a_share_of_them(image_size, patch_size, n_desired):
    config = EnvConfig(image_size=image_size, patch_size=patch_size)
    assert config.n_patches_desired == n_desired
    assert EnvConfig(**vars(config)) == config


def test_an_environment_with_few_patches_works_by_default():
    sizes = {"image_size": 28, "patch_size": 7}
    given = {name: value for name, value in TINY.items() if name != "n_patches_desired"}
    env = gym.make("ViTPatchSelect-v0", **given | sizes)
    env.reset(seed=0)
    action = env.action_space.sample() * 0
    action[:10] = 1
    assert env.step(action)[-1]["reward_patch"] == 0
    assert env.unwrapped.expected_steps > 0


def test_an_explicit_number_of_patches_is_refused_where_there_are_fewer():
    with pytest.raises(ValueError, match=r"n_patches_desired must be in \[1, 16\], got 40"):
        EnvConfig(image_size=28, patch_size=7, n_patches_desired=40)
    with pytest.raises(ValueError, match="must be an integer or auto or None, got 'many'"):
        EnvConfig(n_patches_desired="many")


@pytest.mark.parametrize("command", ["train", "compare --preset smoke", "pretrain"])
def test_the_command_line_adapts_it_too(command):
    words = [*command.split(), "--image-size", "28", "--patch-size", "7"]
    assert parse(words).env.n_patches_desired == 10
    assert parse([*words, "--n-patches-desired", "3"]).env.n_patches_desired == 3
    assert parse([*words, "--n-patches-desired", "None"]).env.n_patches_desired is None


def test_a_runs_options_hold_the_number():
    run = RunFolder(Path(__file__).parent / "data" / "run-0.1")
    content = json.loads((run.path / "config.json").read_text())["options"]
    del content["env"]["n_patches_desired"]
    assert train_options(content).env.n_patches_desired == 10


def test_words_and_numbers_are_described_together():
    (config,) = (one for one in declared(EnvConfig) if one.name == "n_patches_desired")
    assert describe(config.annotation) == "an integer or auto or None"
    assert check(str | None, data_dir=Path("a") / "b") == "a/b"


def test_arguments_that_torchrl_takes_for_itself_have_other_names():
    given = {name: value for name, value in TINY.items() if name not in ("batch_size", "device")}
    env = gym.make("ViTPatchSelect-v0", **given, train_batch_size=32, train_device="cpu")
    assert (env.unwrapped.batch_size, env.unwrapped.config.device) == (32, "cpu")
    with pytest.raises(ValueError, match=r"train_batch_size must not be given with batch_size"):
        ViTPatchSelectEnv(**given, batch_size=32, train_batch_size=32)
    with pytest.raises(TypeError, match="unexpected keyword argument 'train_bach_size'"):
        ViTPatchSelectEnv(train_bach_size=32)
