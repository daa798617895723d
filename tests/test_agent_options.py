"""Hyperparameters, rules and schedules are declared once, without importing torch."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import vit_patch_env
from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv, agents
from vit_patch_env.agents import (
    RULES,
    SCHEDULES,
    BanditOptions,
    BanditPolicy,
    DQNOptions,
    FixedRule,
    MultiOutputDQN,
    PatchBandit,
)
from vit_patch_env.arguments import declared

LIGHT_MODULES = [
    "agents",
    "agents.bandit.options",
    "agents.fixed_rules.schedules",
    "agents.multi_output_dqn.options",
    "patches.sampling",
]


def defaults(function):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def test_the_dqns_signature_has_the_declared_arguments_in_order():
    own = defaults(MultiOutputDQN.__init__)
    names = [argument.name for argument in declared(DQNOptions)]
    assert [name for name in own if name in names] == names
    assert {name: own[name] for name in names} == {
        argument.name: argument.default for argument in declared(DQNOptions)
    }


def test_the_bandits_signatures_have_the_declared_arguments():
    algorithm, policy = defaults(PatchBandit.__init__), defaults(BanditPolicy.__init__)
    expected = {argument.name: argument.default for argument in declared(BanditOptions)}
    own = {"decision_steps": algorithm["decision_steps"], "forgetting": algorithm["forgetting"]}
    of_policy = {name: value for name, value in policy.items() if name not in ("seed", "grid")}
    assert own | of_policy == expected


def test_the_bandit_takes_its_options_as_keywords():
    env = ViTPatchSelectEnv(**{**TINY, "observation": "none+run"})
    options = BanditOptions(decision_steps=5, forgetting=0.9, n_stages=3, sampling="uniform")
    agent = PatchBandit("BanditPolicy", env, **options.keywords())
    assert (agent.decision_steps, agent.forgetting) == (5, 0.9)
    assert agent.policy.n_stages == 3
    assert agent.policy_kwargs["sampling"] == "uniform"


@pytest.mark.parametrize("kind", [DQNOptions, BanditOptions])
def test_every_argument_has_a_description_of_one_line(kind):
    for argument in declared(kind):
        assert argument.doc
        assert "\n" not in argument.doc


@pytest.mark.parametrize("name", [*RULES, *SCHEDULES])
def test_every_rule_and_schedule_is_described_by_its_docstring(name):
    entry = RULES.get(name) or SCHEDULES[name]
    text = vars(entry)["__doc__"] if isinstance(entry, type) else entry.__doc__
    assert text.split("\n")[0].endswith(".")


def test_rules_are_the_policies_of_the_algorithm():
    assert FixedRule.policy_aliases == RULES
    assert not RULES.keys() & SCHEDULES.keys()


@pytest.mark.parametrize("name", agents.__all__)
def test_public_names_are_found_in_the_package(name):
    assert getattr(agents, name) is not None
    assert name in dir(agents)


@pytest.mark.parametrize("name", LIGHT_MODULES)
def test_light_modules_import_no_torch(name):
    # In place of vit_patch_env/__init__.py, whatever that imports, stands an empty package.
    code = (
        "import sys, types\n"
        "package = types.ModuleType('vit_patch_env')\n"
        f"package.__path__ = [{str(Path(vit_patch_env.__file__).parent)!r}]\n"
        "sys.modules['vit_patch_env'] = package\n"
        f"import vit_patch_env.{name}\n"
        "heavy = {'torch', 'stable_baselines3', 'gymnasium'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
