"""Agents in files as methods of a comparison."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import TINY_OPTIONS
from tests.test_cli import refused
from tests.test_compare import compare
from tests.test_schedule_bandit import Trainings
from tests.test_schedule_of_agent import schedule_bandit
from vit_patch_env.agents import ScheduleBandit
from vit_patch_env.experiments.agents_by_name.agent_file import PRETRAINED
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.compare.results import read_comparison
from vit_patch_env.experiments.run_folder.folder import RunFolder, checksum

SHORT = ["--budget", "flops", "--epochs", "0.5", "--seeds", "0"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All patches compared with an agent, whose file lies beside the comparison."""
    folder = tmp_path_factory.mktemp("finished")
    agent = schedule_bandit(folder / "own_agent.zip")
    compare(folder / "out", "--methods", "simple_vit", agent, *SHORT)
    return folder


@pytest.fixture
def moved(finished, tmp_path):
    """The same in another folder, with nothing where it was."""
    away = finished.rename(finished.with_name("away"))
    yield shutil.copytree(away, tmp_path / "moved")
    away.rename(finished)


def test_an_agent_is_compared_under_its_files_name(finished, capsys):
    out, agent = finished / "out", str(finished / "own_agent.zip")
    compare(out, "--methods", agent, *SHORT)  # all is finished
    assert "done after" not in capsys.readouterr().out
    content = json.loads((out / "compare.json").read_text())
    assert content["methods"] == ["simple_vit", "own_agent"]
    assert content["agents"] == {"own_agent": {"path": agent, "sha256": checksum(Path(agent))}}
    assert f"--methods simple_vit {agent}" in content["command"]
    found = read_comparison(out)
    assert found.title("own_agent") == "own_agent"
    assert found.group("own_agent") == "agent"
    counts = RunFolder(out / "runs" / "own_agent__0").read_steps()
    assert min(counts) == 1  # what it has learned for steps that are cheap on few patches
    main(["report", str(out)])
    assert "own_agent" in (out / "report.md").read_text()


def test_the_shipped_agent_of_another_version_is_not_mixed_with_the_present_one(tmp_path, capsys):
    options = ["--budget", "flops", "--epochs", "0.5", "--methods", "pretrained", "--seeds", "0"]
    compare(tmp_path, *options)
    content = json.loads((tmp_path / "compare.json").read_text())
    assert content["agents"] == {
        "pretrained": {"path": "pretrained", "sha256": checksum(PRETRAINED)}
    }
    assert not (tmp_path / "agents").exists()
    of_others = content | {"agents": {"pretrained": {"path": "pretrained", "sha256": "0" * 64}}}
    for earlier in (of_others, {key: content[key] for key in content if key != "agents"}):
        (tmp_path / "compare.json").write_text(json.dumps(earlier))
        line = refused(capsys, "compare", *TINY_OPTIONS, "--out", str(tmp_path), *options)
        assert "methods must have the same agents as the runs in" in line
        assert line.endswith("got another one in pretrained")


def test_another_agent_of_the_same_name_is_not_mixed_with_it(finished, tmp_path, capsys):
    agent = schedule_bandit(tmp_path / "own_agent.zip", likes_few=False)
    out = ["--out", str(finished / "out")]
    line = refused(capsys, "compare", *TINY_OPTIONS, *out, "--methods", agent, *SHORT)
    assert "methods must have the same agents as the runs in" in line
    assert line.endswith(f"got another one in {agent}")


def test_a_comparison_with_an_agent_goes_on_after_its_file_and_folder_were_moved(
    moved, capsys, monkeypatch
):
    monkeypatch.chdir(moved)
    compare("out", "--methods", "own_agent.zip", *SHORT, "1")
    shown = capsys.readouterr().out
    assert "own_agent__1 done" in shown
    assert "own_agent__0 done" not in shown
    for seed in (0, 1):
        run = RunFolder(moved / "out" / "runs" / f"own_agent__{seed}")
        assert run.options.agent.endswith("agents/own_agent.zip")


@pytest.mark.parametrize("agents", [{"simple_vit": {"path": "a", "sha256": "b"}}, {}])
def test_a_damaged_list_of_agents_is_refused(agents, finished, tmp_path, capsys):
    out = shutil.copytree(finished / "out", tmp_path / "out")
    content = json.loads((out / "compare.json").read_text())
    (out / "compare.json").write_text(json.dumps(content | {"agents": agents}))
    methods = ["--methods", "simple_vit", str(finished / "own_agent.zip")]
    line = refused(capsys, "compare", *TINY_OPTIONS, "--out", str(out), *methods, *SHORT)
    assert ("damaged: expected agents of its methods" in line) == bool(agents)
    assert ("must have the same agents as the runs" in line) != bool(agents)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.zip", "methods must have agents' files, got none.zip: "),
        ("own-agent.zip", "whose names are letters, digits and underscores"),
        ("random.zip", "not those of other methods, got random.zip"),
        ("rendom", "or the file of an agent, which ends in .zip, got 'rendom'"),
    ],
)
def test_what_is_no_method_is_refused(name, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "compare", *TINY_OPTIONS, "--methods", name)


def test_a_plain_save_of_an_agent_is_no_agents_file(tmp_path, capsys):
    path = tmp_path / "plain.zip"
    ScheduleBandit("SchedulePolicy", Trainings(), seed=0).save(path)
    line = refused(capsys, "compare", *TINY_OPTIONS, "--methods", str(path))
    assert f"methods must have agents' files, got {path}: " in line
