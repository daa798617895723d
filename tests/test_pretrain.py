import io
import json
import signal
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import TINY, TINY_OPTIONS
from tests.test_cli import refused, train
from vit_patch_env.agents import PatchBandit
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.agent_file import CARD, read_card
from vit_patch_env.experiments.agents_by_name.factory import make_agent, resolve_agent
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.experiments.runs import pretrain
from vit_patch_env.experiments.runs.environment import make_env

SHORT = [*TINY_OPTIONS, "--epochs", "1", "--episodes", "3"]


@pytest.fixture(scope="module")
def agent_file(tmp_path_factory):
    """A bandit that learned over three runs."""
    path = tmp_path_factory.mktemp("agents") / "bandit.zip"
    main(["pretrain", *SHORT, "--out", str(path)])
    return path


def test_a_file_describes_the_agent_and_its_provenance(agent_file):
    card = read_card(agent_file)
    assert (card.agent, card.grid, card.observation) == ("bandit", None, "none+run")
    assert card.provenance["command"].startswith("vit-patch pretrain ")
    assert card.provenance["episodes"] == 3
    assert agent_file.stat().st_size < 200_000


@pytest.mark.one_in(2)
@pytest.mark.parametrize("learns", [False, True])
def test_a_pretrained_agent_trains_another_vit(agent_file, learns, tmp_path, capsys):
    more = ["--agent-learns", "--reward", "validation"] if learns else []
    train(tmp_path / "run", "--agent", str(agent_file), "--budget", "flops", "--dim", "8", *more)
    result = RunFolder(tmp_path / "run").read_result()
    assert result["n_steps"] >= 14
    capsys.readouterr()
    main(["evaluate", str(tmp_path / "run")])
    assert f"{result['test']['agent_patches']['accuracy']:.2%}" in capsys.readouterr().out


@pytest.mark.long
def test_frozen_agents_of_other_algorithms_too(tmp_path):
    path = tmp_path / "ppo.zip"
    main(
        [
            "pretrain",
            *SHORT,
            "--agent",
            "ppo",
            "--out",
            str(path),
            "--sb3",
            "n_steps=8",
            "batch_size=8",
        ]
    )
    train(tmp_path / "run", "--agent", str(path))
    assert RunFolder(tmp_path / "run").read_result()["n_steps"] == 14


@pytest.mark.long
def test_parallel_environments_of_several_lengths(tmp_path):
    path = tmp_path / "bandit.zip"
    main(["pretrain", *SHORT, "--budgets", "1", "2", "--out", str(path)])
    assert read_card(path).provenance["episodes"] >= 3


def test_the_shipped_agent_is_read_and_used(tmp_path):
    small = ["--dataset", "digits", "--dim", "8", "--depth", "1", "--heads", "1", "--mlp-dim", "8"]
    main(["train", "--agent", "pretrained", *small, "--epochs", "1", "--out", str(tmp_path / "r")])
    counts = RunFolder(tmp_path / "r").read_steps()
    assert np.mean(counts[:5]) < np.mean(counts[-5:])


def refused_training(capsys, tmp_path, *args):
    return refused(capsys, "train", *TINY_OPTIONS, "--out", str(tmp_path / "run"), *args)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--out", "agent.pt"], "--out must end in .zip, got agent.pt"),
        (["--agent", "random"], "--agent must be one that learns from scratch, got random"),
        (["--agent", "pretrained"], "--agent must be one that learns from scratch"),
        (["--episodes", "0"], "--episodes must be in [1, 10^9], got 0"),
        (["--jobs", "0"], "--jobs must be in [1, 10^9], got 0"),
        (["--budgets", "0"], "--budgets must be a list, each an integer in [1, 10^9], got 0"),
    ],
)
def test_bad_values_are_refused(args, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "pretrain", *SHORT, *args)


def test_a_file_is_kept_unless_overwriting_is_asked_for(agent_file, capsys):
    before = agent_file.read_bytes()
    assert "add --overwrite" in refused(capsys, "pretrain", *SHORT, "--out", str(agent_file))
    assert agent_file.read_bytes() == before


@pytest.mark.parametrize(
    ("card", "grid"), [({"grid": [4, 4]}, "4 x 4"), ({"n_patches": 16}, "4 x 4")]
)
@pytest.mark.parametrize("agent", ["paper", "ppo"])
def test_an_agent_with_an_output_per_patch_is_refused_on_another_grid(
    agent, card, grid, agent_file, tmp_path, capsys
):
    path = tmp_path / "agent.zip"
    copy_with_card(agent_file, path, agent=agent, observation="attention_output", **card)
    args = ("--agent", str(path), "--patch-size", "16", "--n-patches-desired", "2")
    error = refused_training(capsys, tmp_path, *args)
    assert "--agent must pick among the run's 4 patches (2 x 2), got" in error
    assert f"which picks among 16 patches ({grid}): pretrain one for this grid, or choose " in error
    assert not (tmp_path / "run").exists()


def copy_with_card(path, copy, **changes):
    """A copy of an agent's file with other values on its card, as former versions wrote them."""
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(copy, "w") as new:
        for name in file.namelist():
            content = file.read(name)
            if name == CARD:
                values = json.loads(content)
                del values["grid"]
                content = json.dumps(values | changes).encode()
            new.writestr(name, content)


@pytest.mark.parametrize("n_patches", [0, -4, 15, 2.0, True, "16", None])
def test_a_card_of_patches_that_form_no_square_is_refused(n_patches, agent_file, tmp_path):
    copy_with_card(agent_file, tmp_path / "agent.zip", n_patches=n_patches)
    with pytest.raises(ValueError, match="n_patches must be a square number, got"):
        read_card(tmp_path / "agent.zip")


GRIDS = {7: (28, 4), 14: (56, 4), 24: (96, 4)}
"""Image and patch sizes by rows of patches."""


@pytest.mark.one_in(2)
@pytest.mark.parametrize("side", GRIDS)
@pytest.mark.parametrize("former", [False, True])
def test_a_bandit_acts_on_any_grid_in_the_same_shares(side, former, agent_file, tmp_path):
    agent = str(agent_file)
    if former:
        agent = str(tmp_path / "former.zip")
        copy_with_card(agent_file, agent, n_patches=16)
    options = TrainOptions(agent=agent, env=EnvConfig(**TINY))
    shares = []
    for image_size, patch_size in (GRIDS[side], (32, 4)):
        sizes = {"image_size": image_size, "patch_size": patch_size, "n_patches_desired": "auto"}
        resolved = resolve_agent(replace(options, env=replace(options.env, **sizes)))
        env = make_env(resolved.env)
        policy = make_agent(resolved, env).policy
        weights = policy.of_counts.mean()
        counts = [policy.best_count(progress, 500, weights) for progress in (0, 0.5, 0.8, 1)]
        shares.append(np.array(counts) / env.n_patches)
    np.testing.assert_allclose(*shares, atol=0.5 / 49)


@pytest.mark.long
def test_the_shipped_agent_trains_on_196_patches(tmp_path):
    words = ["--image-size", "56", "--patch-size", "4", "--n-patches-desired", "auto"]
    words += ["--epochs", "1", "--budget", "flops"]
    train(tmp_path / "run", "--agent", "pretrained", *words)
    counts = RunFolder(tmp_path / "run").read_steps()
    assert counts[0] == 24  # 1/8 of them
    assert max(counts) > 98
    main(["evaluate", str(tmp_path / "run")])


def test_a_file_on_its_own_grid_is_loaded_as_it_is(agent_file):
    loaded = PatchBandit.load(agent_file)
    state = learned(agent_file)
    for name, value in loaded.policy.state_dict().items():
        assert torch.equal(value, state[name])


def test_an_observation_that_is_not_the_agents_is_refused(agent_file, tmp_path, capsys):
    args = ("--agent", str(agent_file), "--observation", "attention_received")
    error = refused_training(capsys, tmp_path, *args)
    assert "observation must be that of" in error
    assert "none+run, got attention_received" in error


@pytest.mark.parametrize("damage", ["missing", "no zip", "no card", "cut"])
def test_a_file_that_is_no_agent_is_refused(damage, agent_file, tmp_path, capsys):
    path = tmp_path / "agent.zip"
    if damage == "no zip":
        path.write_text("no agent")
    elif damage == "no card":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("data", "{}")
    elif damage == "cut":
        path.write_bytes(agent_file.read_bytes()[:5000])
    error = refused_training(capsys, tmp_path, "--agent", str(path))
    assert "agent must be a file that vit-patch pretrain wrote" in error


def test_a_card_without_the_agents_weights_is_refused(agent_file, tmp_path, capsys):
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(CARD, json.dumps(json.loads(zipfile.ZipFile(agent_file).read(CARD))))
    error = refused_training(capsys, tmp_path, "--agent", str(path))
    assert "cannot be loaded" in error


def test_continued_learning_is_only_for_files(tmp_path, capsys):
    error = refused_training(capsys, tmp_path, "--agent", "paper", "--agent-learns")
    assert "--agent-learns is for the file of a pre-trained agent, got --agent paper" in error


def test_a_run_has_the_values_on_the_agents_card(agent_file, tmp_path, capsys):
    options = TrainOptions(agent=str(agent_file))
    assert resolve_agent(options).bandit == read_card(agent_file).bandit
    error = refused_training(
        capsys, tmp_path, "--agent", str(agent_file), "--bandit.decision-steps", "77"
    )
    assert "--bandit must be that of" in error


LONGER = [*SHORT, "--batch-size", "16"]
"""Runs of seven steps."""


def interrupted(monkeypatch, out, *args, after=10):
    """A pretraining that was stopped within an episode."""
    on_step = pretrain._Episodes._on_step

    def signalled(episodes):
        goes_on = on_step(episodes)
        if episodes.n_calls == after:
            signal.raise_signal(signal.SIGTERM)
        return goes_on

    with monkeypatch.context() as patch:
        patch.setattr(pretrain._Episodes, "_on_step", signalled)
        with pytest.raises(SystemExit) as stop:
            main(["pretrain", *LONGER, "--out", str(out), *args])
    assert stop.value.code == 128 + signal.SIGTERM


def learned(path):
    """What an agent's file holds of what it learned, and over how many runs."""
    with zipfile.ZipFile(path) as file:
        weights = torch.load(io.BytesIO(file.read("policy.pth")), weights_only=True)
    provenance = read_card(path).provenance
    names = ("episodes", "mean_return_of_last_ten")
    return weights | {name: torch.tensor(provenance[name]) for name in names}


PPO = ["--agent", "ppo", "--sb3", "n_steps=8", "batch_size=8"]


@pytest.mark.long
@pytest.mark.parametrize(
    "args",
    [
        ["--jobs", "2"],
        [],
        ["--actions", "count", "--agent", "dqn", "--sb3", "learning_starts=4", "--jobs", "2"],
        PPO,
        [*PPO, "--budgets", "1", "2"],
    ],
    ids=str,
)
def test_an_interrupted_pretraining_resumes_as_if_it_had_not_been(
    args, tmp_path, monkeypatch, capsys
):
    out, whole = tmp_path / "agent.zip", tmp_path / "whole.zip"
    interrupted(monkeypatch, out, *args)
    said = capsys.readouterr().err
    assert f"which the agent in {out} has learned from" in said
    assert f"resume with: vit-patch pretrain --resume {out}" in said
    assert read_card(out).provenance["episodes"] < 3
    main(["pretrain", "--resume", str(out)])
    assert ", resumed at step " in capsys.readouterr().out
    assert not (tmp_path / "agent.unfinished").exists()
    main(["pretrain", *LONGER, "--out", str(whole), *args])
    expected = learned(whole)
    assert learned(out).keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in learned(out).items())


@pytest.mark.long
def test_what_is_resumed_is_as_it_was_begun(tmp_path, monkeypatch, capsys):
    out = tmp_path / "agent.zip"
    assert "there is no" in refused(capsys, "pretrain", "--resume", str(out))
    interrupted(monkeypatch, out)
    capsys.readouterr()
    line = refused(capsys, "pretrain", *LONGER, "--out", str(out))
    assert f"whose pretraining was interrupted: resume it (--resume {out})" in line
    line = refused(capsys, "pretrain", "--resume", str(out), "--episodes", "200")
    assert "--episodes must be that of the resumed pretraining, 3, got 200" in line
    main(["pretrain", *LONGER, "--out", str(out), "--overwrite"])
    assert not (tmp_path / "agent.unfinished").exists()
