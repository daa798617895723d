"""Environments on images that were loaded before, as comparisons and studies make them."""

import numpy as np
import pytest
from rich.console import Console

from tests.conftest import TINY_OPTIONS
from vit_patch_env.config import EnvConfig
from vit_patch_env.config.data import LOADING
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.compare.comparison import Comparison
from vit_patch_env.experiments.runs.environment import make_env, make_env_on


def test_it_trains_as_one_that_loads_them(make_folder):
    config = EnvConfig(
        dataset="folder", data_dir=str(make_folder(size=(12, 20))), train_fraction=0.6,
        val_fraction=0.2, skip_corrupt=True, resize="stretch", images="memory", image_size=8,
        patch_size=4, dim=16, depth=2, heads=2, dim_head=16, mlp_dim=16, batch_size=4, device="cpu",
    )  # fmt: skip
    assert all(getattr(config, name) != getattr(EnvConfig, name) for name in LOADING)
    env = make_env(config)
    losses = []
    for one in (env, make_env_on(env.data, config)):
        one.reset(seed=0)
        losses.append([one.step(np.ones(4, np.int8))[-1]["loss"] for _ in range(3)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_commands_take_a_share_of_a_folder_of_images(command, make_folder, tmp_path):
    options = [*TINY_OPTIONS, "--dataset", "folder", "--data-dir", str(make_folder()),
               "--train-fraction", "0.5", "--batch-size", "4", "--epochs", "1",
               "--out", str(tmp_path / "out")]  # fmt: skip
    if command == "tune":
        main(["tune", *options, "--agent", "bandit", "--trials", "1"])
        assert (tmp_path / "out" / "best.json").exists()
        return
    given = parse(["compare", *options, "--methods", "simple_vit", "--seeds", "0"])
    comparison = Comparison(given, Console(quiet=True))
    comparison.prepare()
    comparison.lock.release()
    assert comparison.images["train"] == 18
