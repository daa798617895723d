"""Height and width of images as an argument: one number or two, checked, saved and resumed."""

import json
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import vit_patch_env  # noqa: F401  (registers ViTPatchSelect-v0)
from tests.conftest import TINY, TINY_OPTIONS
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.arguments import from_json, to_json
from vit_patch_env.config import EnvConfig
from vit_patch_env.data.datasets import load_dataset
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.options.flat import command
from vit_patch_env.patches.grid import patch_grid, size_text

FLAT = TINY | {"image_size": (16, 32)}


def refused(capsys, *args):
    """The line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("given", "size", "grid"),
    [
        (28, (28, 28), (7, 7)),
        ((40, 56), (40, 56), (10, 14)),
        ([56, 40], (56, 40), (14, 10)),
        ([np.int64(16), np.int32(4)], (16, 4), (4, 1)),
    ],
)
def test_size_and_grid_follow_from_one_number_or_two(given, size, grid):
    config = EnvConfig(image_size=given, patch_size=4)
    assert (config.size, config.grid, config.n_patches) == (size, grid, grid[0] * grid[1])


@pytest.mark.parametrize("given", [(32, 32), [32, 32], 32, np.int64(32)])
def test_equal_sides_are_one_number(given):
    assert EnvConfig(image_size=given) == EnvConfig()
    assert EnvConfig(image_size=given).image_size == 32


@pytest.mark.parametrize("image_size", [48, (16, 32)])
def test_a_size_is_the_same_after_json(image_size):
    config = EnvConfig(image_size=image_size)
    text = json.dumps(to_json(config))
    assert from_json(EnvConfig, json.loads(text)) == config


def test_a_spec_in_json_makes_the_same_environment():
    env = gym.make("ViTPatchSelect-v0", **FLAT)
    spec = EnvSpec.from_json(env.spec.to_json())
    assert spec == env.spec
    assert gym.make(spec).get_wrapper_attr("grid") == (2, 4)


@pytest.mark.parametrize(
    ("words", "image_size"),
    [(["48"], 48), (["16", "32"], (16, 32)), (["32", "32"], 32)],
)
def test_one_word_or_two_are_a_size_on_the_command_line(words, image_size):
    options = parse(["train", "--image-size", *words, "--patch-size", "8"])
    assert options.env.image_size == image_size
    assert parse(["train", f"--image-size={words[0]}"]).env.image_size == int(words[0])


def test_the_command_that_gives_a_size_has_both_numbers():
    options = TrainOptions(env=EnvConfig(image_size=(16, 32)))
    words = command("train", options, TrainOptions())
    assert words == "vit-patch train --image-size 16 32"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("30 32 34", r"must be an integer in .* or 2 of them, or None, got \(30, 32, 34\)"),
        ("0 32", r"must be an integer in .* or 2 of them, or None, got \(0, 32\)"),
        ("32 99999", r"must be an integer in .* or 2 of them, or None, got \(32, 99999\)"),
        ("0", r"must be an integer in .* or 2 of them, or None, got 0"),
        ("x 32", r"must be an integer in .* or 2 of them, or None, got \('x', 32\)"),
        ("32 30", "must be divisible by --patch-size, got --image-size 32 x 30 and --patch-size 4"),
        ("30", "must be divisible by --patch-size, got --image-size 30 and --patch-size 4"),
        ("", r"needs a value, an integer in \[1, 16384\] or 2 of them, or None, got none"),
    ],
)  # fmt: skip
def test_a_wrong_size_is_one_line_in_the_name_typed(words, message, capsys, tmp_path):
    out = str(tmp_path / "run")
    line = refused(capsys, "train", "--out", out, "--image-size", *words.split())
    assert re.fullmatch(rf"vit-patch: --image-size {message}", line)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (16, 30)}, "image_size must be divisible by .*, got image_size 16 x 30"),
        ({"image_size": (16.0, 32)}, r"image_size must be an integer .*, got \(16.0, 32\)"),
        ({"image_size": (16,)}, r"image_size must be an integer .*, got \(16,\)"),
        ({"crop_padding": 17}, r"crop_padding must be in \[0, 16\], got 17"),
        ({"n_patches_desired": 9}, r"n_patches_desired must be in \[1, 8\], got 9"),
    ],
)  # fmt: skip
def test_a_wrong_size_in_python_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ViTPatchSelectEnv(**FLAT | changes)


def test_images_of_another_shape_are_refused():
    data = load_dataset("synthetic", image_size=(32, 16))
    env = ViTPatchSelectEnv(**FLAT | {"dataset": data})
    with pytest.raises(ValueError, match=r"image_size must be .*\[32, 16\], got \(16, 32\)"):
        env.reset(seed=0)


def test_the_grid_cannot_be_assigned_and_belongs_to_saved_runs(tmp_path):
    env = ViTPatchSelectEnv(**FLAT)
    assert env.grid == (2, 4)
    assert env.observation_space.shape == env.action_space.shape == (8,)
    with pytest.raises(ValueError, match="grid cannot be assigned"):
        env.grid = (4, 2)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.save(tmp_path / "run.state")
    expected = env.step(np.ones(8, np.int8))
    other = ViTPatchSelectEnv(**FLAT)
    other.load(tmp_path / "run.state")
    assert np.array_equal(other.step(np.ones(8, np.int8))[0], expected[0])
    upright = ViTPatchSelectEnv(**FLAT | {"image_size": (32, 16)})
    with pytest.raises(ValueError, match="image_size"):
        upright.load(tmp_path / "run.state")


@pytest.mark.long
def test_a_resumed_run_keeps_its_size(tmp_path, capsys):
    out = str(tmp_path / "run")
    args = ["train", *TINY_OPTIONS, "--epochs", "1", "--agent", "spread", "--out", out]
    main([*args, "--image-size", "16", "32"])
    config = json.loads((tmp_path / "run" / "config.json").read_bytes())
    assert config["options"]["env"]["image_size"] == [16, 32]
    line = refused(capsys, "train", "--resume", out, "--image-size", "32", "16")
    assert "--image-size must be that of the resumed run, (16, 32), got (32, 16)" in line
    main(["train", "--resume", out, "--epochs", "2", "--image-size", "16", "32"])
    main(["evaluate", out])
    assert "all patches" in capsys.readouterr().out


def test_sizes_in_words_and_grids_of_patches():
    assert [size_text(one) for one in (32, (32, 32), (160, 224))] == ["32", "32", "160 x 224"]
    assert patch_grid((160, 224), 16) == (10, 14)
