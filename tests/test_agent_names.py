"""Algorithms of Stable-Baselines3 and sb3-contrib by name."""

import pytest
import sb3_contrib
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm

from tests.conftest import TINY_OPTIONS
from tests.test_cli import refused
from vit_patch_env.experiments.agents_by_name.factory import agent_class
from vit_patch_env.experiments.cli import main

ALGORITHMS = sorted(
    {
        one
        for library in (stable_baselines3, sb3_contrib)
        for one in vars(library).values()
        if isinstance(one, type) and issubclass(one, BaseAlgorithm)
    }
    - {sb3_contrib.ARS},
    key=lambda one: one.__name__,
)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_is_found_by_its_name_in_any_case(algorithm):
    name = algorithm.__name__
    assert {agent_class(one) for one in (name, name.lower(), name.upper())} == {algorithm}


@pytest.mark.long
@pytest.mark.parametrize(
    "args", [["crossq", "--actions", "top_k"], ["recurrentppo", "--actions", "count"]]
)
def test_those_with_names_in_mixed_case_train(args, tmp_path):
    main(["train", *TINY_OPTIONS, "--epochs", "1", "--agent", *args, "--out", str(tmp_path / "r")])


@pytest.mark.parametrize("command", ["train", "tune", "pretrain"])
def test_one_whose_training_cannot_be_followed_is_refused(command, capsys, tmp_path):
    args = ["--agent", "ars", "--out", str(tmp_path / "agent.zip")]
    message = "--agent must be an algorithm that gives callbacks the infos of every step"
    assert message in refused(capsys, command, *TINY_OPTIONS, *args)


def test_recurrent_ppo_needs_actions_that_it_can_take(capsys, tmp_path):
    args = ["--agent", "recurrentppo", "--out", str(tmp_path / "run")]
    message = "--actions must be count for recurrentppo, which fails with MultiBinary, got mask"
    assert message in refused(capsys, "train", *TINY_OPTIONS, *args)
