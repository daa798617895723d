"""Agents saved under the former names of modules, attributes and arguments are loaded."""

import base64
import json
import zipfile

import numpy as np
import pytest
import torch
from stable_baselines3.common.envs import IdentityEnvMultiBinary

from tests.conftest import TINY
from tests.test_schedule_of_agent import BANDIT
from vit_patch_env import ViTPatchSelectEnv, agents
from vit_patch_env.agents import FixedRule, MultiOutputDQN, PatchBandit, ScheduledCount
from vit_patch_env.agents.common.saved_files import MOVED_MODULES


def with_former_names(path, renamed=None, replaced=None):
    """Rename attributes in a saved file, and replace others by values or pickles (bytes)."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(contents["data"])
    for present, former in (renamed or {}).items():
        data[former] = data.pop(present)
    for name, value in (replaced or {}).items():
        pickled = isinstance(value, bytes)
        data[name] = {":serialized:": base64.b64encode(value).decode()} if pickled else value
    contents["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def test_an_agent_with_the_former_exploration_names_keeps_its_own_values(tmp_path):
    env = IdentityEnvMultiBinary(4)
    model = MultiOutputDQN(
        "MlpPolicy", env, exploration_initial_eps=0.9, exploration_final_eps=0.2,
        exploration_decay_steps=70, policy_kwargs={"net_arch": [8]}, seed=0,
    ).learn(100)  # fmt: skip
    path = tmp_path / "agent.zip"
    model.save(path)
    with_former_names(
        path,
        {
            "exploration_initial_eps": "eps_start",
            "exploration_final_eps": "eps_end",
            "exploration_decay_steps": "eps_decay",
            "_scale_decay_steps": "_scale_eps_decay",
        },
        {"policy_class": b"cagents.multi_output_dqn.policies\nMlpPolicy\n."},
    )
    loaded = MultiOutputDQN.load(path, env=env)
    assert loaded.exploration_initial_eps == 0.9
    assert loaded.exploration_final_eps == 0.2
    assert loaded.exploration_decay_steps == 70
    assert loaded._scale_decay_steps is False
    assert loaded.exploration_rate == model.exploration_rate
    assert not [name for name in vars(loaded) if name.startswith("eps_")]
    assert type(loaded.policy) is agents.MlpPolicy
    for one, other in zip(loaded.policy.parameters(), model.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    loaded.learn(10, reset_num_timesteps=False)
    loaded.save(path)  # under the present names
    assert MultiOutputDQN.load(path, gamma=0.5).exploration_final_eps == 0.2


def test_values_given_to_load_override_those_with_former_names(tmp_path):
    path = tmp_path / "agent.zip"
    MultiOutputDQN("MlpPolicy", IdentityEnvMultiBinary(4), exploration_final_eps=0.2).save(path)
    with_former_names(path, {"exploration_final_eps": "eps_end"})
    assert MultiOutputDQN.load(path, exploration_final_eps=0.5).exploration_final_eps == 0.5


def test_a_bandit_with_the_former_sampling_argument_keeps_it(tmp_path):
    env = ViTPatchSelectEnv(**{**TINY, "observation": "none+run"})
    model = PatchBandit("BanditPolicy", env, policy_kwargs={"sampling": "uniform"}, seed=0)
    model.learn(14)
    path = tmp_path / "agent.zip"
    model.save(path)
    with_former_names(
        path,
        replaced={
            "policy_class": b"cagents.bandit.policies\nBanditPolicy\n.",
            "policy_kwargs": {"draw": "uniform"},
            "_decisions": b"cagents.bandit.bandit\n_Decision\n.",
        },
    )
    loaded = PatchBandit.load(path)
    assert loaded.policy_kwargs == {"sampling": "uniform"}
    observations = np.zeros((3, 19), dtype=np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    assert (loaded.predict(observations, deterministic=True)[0] == expected).all()


def test_a_rule_with_the_former_modules_is_loaded(tmp_path):
    env = ViTPatchSelectEnv(**TINY)
    path = tmp_path / "agent.zip"
    FixedRule("spread", env, n_keep=ScheduledCount("quadratic", 16, 2), seed=0).save(path)
    with_former_names(
        path,
        replaced={
            "policy_class": b"cagents.selectors\nSpreadPatches\n.",
            "n_keep": b"cagents.schedules\nScheduledCount\n(S'quadratic'\nI16\nI2\ntR.",
        },
    )
    loaded = FixedRule.load(path)
    assert type(loaded.policy) is agents.SpreadPatches
    assert loaded.n_keep == ScheduledCount("quadratic", 16, 2)


@pytest.mark.parametrize("former", MOVED_MODULES)
def test_former_modules_have_a_successor(former):
    __import__(MOVED_MODULES[former])


def test_custom_objects_replace_saved_ones(tmp_path):
    path = tmp_path / "agent.zip"
    FixedRule("random", ViTPatchSelectEnv(**TINY), n_keep=5, seed=0).save(path)
    assert FixedRule.load(path, custom_objects={"n_keep": 3}).policy.n_keep == 3


@pytest.mark.parametrize("content", [b"no archive", b""])
def test_a_file_that_is_no_agent_is_refused_by_stable_baselines3(content, tmp_path):
    (tmp_path / "agent.zip").write_bytes(content)
    with pytest.raises(ValueError, match="wasn't a zip-file"):
        FixedRule.load(tmp_path / "agent.zip")


def test_a_bandit_of_a_former_version_is_loaded_from_path_and_open_file():
    loaded = PatchBandit.load(BANDIT)
    with open(BANDIT, "rb") as file:  # noqa: PTH123
        again = PatchBandit.load(file)
    for name, value in loaded.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[name], value)
    assert float(loaded.policy.of_counts.n_seen) == 141


def test_the_parameters_of_a_former_versions_bandit_fit_a_new_policy():
    env = ViTPatchSelectEnv(**{**TINY, "patch_size": 4, "observation": "none+run"})
    agent = PatchBandit("BanditPolicy", env)
    agent.set_parameters(BANDIT)
    loaded = PatchBandit.load(BANDIT)
    for name, value in loaded.policy.state_dict().items():
        if name == "rows_columns":  # which only the environment knows
            continue
        assert torch.equal(agent.policy.state_dict()[name], value)
