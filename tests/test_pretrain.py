import json
import zipfile

import numpy as np
import pytest

from tests.conftest import TINY_OPTIONS
from tests.test_cli import refused, train
from vit_patch_env.experiments.agents_by_name.agent_file import CARD, read_card
from vit_patch_env.experiments.agents_by_name.factory import resolve_agent
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.run_folder.folder import RunFolder

pytestmark = pytest.mark.usefixtures("flops_counted_once")

SHORT = [*TINY_OPTIONS, "--epochs", "1", "--episodes", "3"]


@pytest.fixture(scope="module")
def agent_file(tmp_path_factory):
    """A bandit that learned over three runs."""
    path = tmp_path_factory.mktemp("agents") / "bandit.zip"
    main(["pretrain", *SHORT, "--out", str(path)])
    return path


def test_a_file_describes_the_agent_and_its_provenance(agent_file):
    card = read_card(agent_file)
    assert (card.agent, card.n_patches, card.observation) == ("bandit", 16, "none+run")
    assert card.provenance["command"].startswith("vit-patch pretrain ")
    assert card.provenance["episodes"] == 3
    assert agent_file.stat().st_size < 200_000


@pytest.mark.parametrize("learns", [False, True])
def test_a_pretrained_agent_trains_another_vit(agent_file, learns, tmp_path, capsys):
    more = ["--agent-learns", "--reward", "validation"] if learns else []
    train(tmp_path / "run", "--agent", str(agent_file), "--budget", "flops", "--dim", "8", *more)
    result = RunFolder(tmp_path / "run").read_result()
    assert result["n_steps"] >= 14
    capsys.readouterr()
    main(["evaluate", str(tmp_path / "run")])
    assert f"{result['test']['agent_patches']['accuracy']:.2%}" in capsys.readouterr().out


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
        (["--episodes", "0"], "--episodes must be in [1, inf), got 0"),
        (["--jobs", "0"], "--jobs must be in [1, inf), got 0"),
        (["--budgets", "0"], "--budgets must be a list, each an integer in [1, inf), got 0"),
    ],
)
def test_bad_values_are_refused(args, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "pretrain", *SHORT, *args)


def test_a_file_is_kept_unless_overwriting_is_asked_for(agent_file, capsys):
    before = agent_file.read_bytes()
    assert "add --overwrite" in refused(capsys, "pretrain", *SHORT, "--out", str(agent_file))
    assert agent_file.read_bytes() == before


def test_an_agent_of_other_patches_is_refused(agent_file, tmp_path, capsys):
    args = ("--agent", str(agent_file), "--patch-size", "16", "--n-patches-desired", "2")
    error = refused_training(capsys, tmp_path, *args)
    assert "--agent must pick among the run's 4 patches, got" in error
    assert "which picks among 16 patches" in error
    assert not (tmp_path / "run").exists()


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
