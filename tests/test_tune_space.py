"""What `vit-patch tune` searches, and what it refuses; without Optuna."""

import sys
from dataclasses import replace
from typing import get_args

import pytest

from tests.conftest import TINY, TINY_OPTIONS
from tests.test_cli import refused
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents.bandit.options import BanditOptions
from vit_patch_env.agents.multi_output_dqn.options import DQNOptions
from vit_patch_env.arguments import declared
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.factory import resolve_agent
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.options.flat import flat
from vit_patch_env.experiments.tune.space import searched_dimensions, with_values

SEARCHED = [
    pytest.param(kind, argument, id=f"{kind.__name__}.{argument.name}")
    for kind in (DQNOptions, BanditOptions, EnvConfig)
    for argument in declared(kind)
    if argument.search is not None
]


def dimensions(*names, **options):
    """What is searched with these options of `train`, by name."""
    options = resolve_agent(TrainOptions(env=EnvConfig(**TINY), **options))
    env = ViTPatchSelectEnv(**{name: getattr(options.env, name) for name in TINY})
    return {one.name: one for one in searched_dimensions(options, env, names)}


@pytest.mark.parametrize(("kind", "argument"), SEARCHED)
def test_searched_bounds_are_valid_and_contain_the_default(kind, argument):
    search = argument.search
    if search.of is not None:
        assert 0 < search.low < search.high
        return
    if not search.high:
        assert len(get_args(get_args(argument.annotation)[0])) > 1
        return
    assert search.low < search.high
    for value in (search.low, search.high):
        assert getattr(kind(**{argument.name: value}), argument.name) == value
    assert search.low <= argument.default <= search.high
    assert not (search.log and search.low == 0)


def test_the_papers_agent_and_its_reward():
    found = dimensions()
    assert {"dqn.learning_rate", "dqn.gamma", "dqn.exploration_decay_steps", "alpha"} <= set(found)
    assert not any(name.startswith(("bandit.", "sb3.")) for name in found)
    assert "reward_every" not in found
    # TINY has 2 epochs of 7 steps, and gives the number of patches.
    assert found["dqn.exploration_decay_steps"][3:5] == (1, 28)
    assert "n_patches_desired" not in found
    assert dimensions("n-patches-desired")["n_patches_desired"][1:6] == (8, True, 1, 16, True)


def test_other_agents_have_other_values():
    bandit = dimensions(agent="bandit")
    assert bandit["bandit.sampling"].choices == ("uniform", "spread")
    assert bandit["bandit.decision_steps"].start is None
    assert not bandit["bandit.decision_steps"].has_start
    assert not any(name.startswith("dqn.") for name in bandit)
    ppo, sac = dimensions(agent="ppo"), dimensions(agent="sac", actions="top_k")
    assert {"sb3.learning_rate", "sb3.ent_coef", "sb3.clip_range", "alpha"} <= set(ppo)
    assert "sb3.tau" in sac
    assert "sb3.ent_coef" not in sac  # its default is a text


def test_what_is_given_is_searched_only_if_it_is_named():
    given = {"dqn": DQNOptions(gamma=0.5)}
    assert "dqn.gamma" not in dimensions(**given)
    assert dimensions("dqn.gamma", **given)["dqn.gamma"].start == 0.5
    assert "sb3.gamma" not in dimensions(agent="ppo", sb3=("gamma=0.5",))
    assert "sb3.gamma" not in dimensions(agent="ppo", sb3=("gamma=0.99",))  # its default
    assert dimensions("sb3.gamma", agent="ppo", sb3=("gamma=0.5",))["sb3.gamma"].start == 0.5


def test_values_of_a_trial_are_those_of_its_runs():
    options = TrainOptions(agent="ppo", sb3=("n_steps=8", "gamma=0.5"))
    changed = with_values(options, {"sb3.gamma": 0.25, "alpha": 0.75})
    assert changed.sb3 == ("n_steps=8", "gamma=0.25")
    assert with_values(options, {"sb3.gamma": 0.5, "sb3.ent_coef": 0.0}) == options
    assert changed.env.alpha == 0.75
    changed = with_values(TrainOptions(), {"dqn.tau": 0.3, "n_patches_desired": 7})
    differing = {name for name, one in flat(changed).items() if one != flat(TrainOptions())[name]}
    assert differing == {"dqn.tau", "n_patches_desired"}
    assert replace(changed, dqn=DQNOptions(), env=EnvConfig()) == TrainOptions()


def test_without_optuna_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    line = refused(capsys, "tune", *TINY_OPTIONS, "--out", str(tmp_path / "study"))
    assert "tune needs the extra tune, pip install 'vit-patch-env[tune]', got: " in line
    assert not (tmp_path / "study").exists()
