"""The rows of the README's tables are what their commands give: here in small."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import TINY_OPTIONS
from vit_patch_env.experiments.agents_by_name.factory import resolve_agent
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.compare.method_options import method_options
from vit_patch_env.experiments.compare.methods import METHODS as ALL_METHODS
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.options.flat import command
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.experiments.runs.resume import resumed_options

README = Path(__file__).parent.parent / "README.md"
SMALL = [*TINY_OPTIONS, "--budget", "flops", "--epochs", "1", "--seed", "3"]
TABLES = (
    ("simple_vit", "random16", "random32", "quadratic_spread", "pretrained"),
    ("simple_vit", "agentvit", "random", "pss_linear", "random8", "quadratic_spread"),
)
METHODS = tuple(method for table in TABLES for method in table)
"""The methods of the comparisons whose results the rows are, table by table."""


def words_of_rows():
    """The words of each row's command, in order; of two commands, the first."""
    return [
        shlex.split(words)
        for words in re.findall(r"^\|.*?`(--agent [^`]*)`", README.read_text(), re.M)
    ]


def test_every_row_has_its_command():
    tables = README.read_text().split("| what picks the patches |")[1:]
    rows = [table.split("\n\n")[0].count("\n|") - 1 for table in tables]
    assert rows == [len(methods) for methods in TABLES]
    assert len(words_of_rows()) == len(METHODS)


def trained(out, words):
    main(["train", *words, "--out", str(out), "--overwrite"])
    return RunFolder(out)


def outcome(folder):
    result = folder.read_result()
    names = ("test", "flops", "n_steps", "n_selected_mean", "diverged")
    return {name: result[name] for name in names}, (folder.path / "selected.csv").read_text()


@pytest.fixture(scope="module")
def agentvit(tmp_path_factory):
    """A run of the paper's agent, whose number of patches a method takes over."""
    return trained(tmp_path_factory.mktemp("agentvit"), [*SMALL, "--agent", "paper"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("index", "method"),
    [
        (index, method)
        for index, method in enumerate(METHODS)
        if (ALL_METHODS[method].n_keep or 0) <= 16  # patches here
    ],
)
def test_a_rows_command_trains_as_its_method(index, method, tmp_path, request):
    words, followed = words_of_rows()[index], None
    if method == "random":
        followed = request.getfixturevalue("agentvit")
        n_keep = round(followed.read_result()["n_selected_mean"])
        words[words.index("--n-patches-desired") + 1] = str(n_keep)
    env = parse(["train", *SMALL]).env
    options = method_options(ALL_METHODS[method], 3, env, tmp_path / "method", followed)
    of_method = command("train", options, TrainOptions(), options.given)
    compared = trained(tmp_path / "method", shlex.split(of_method)[2:])
    assert outcome(trained(tmp_path / "row", [*SMALL, *words])) == outcome(compared)


@pytest.mark.long
@pytest.mark.parametrize(
    ("agent", "observation"),
    [
        ("all", "none"),
        ("random", "none"),
        ("spread", "none"),
        ("centre", "none"),
        ("matched", "none"),
        ("quadratic", "none"),
        ("attended", "attention_received"),
        ("bandit", "none+run"),
        ("paper", "attention_output"),
        ("ppo", "attention_output"),
    ],
)
def test_what_decides_observes_only_what_it_uses(agent, observation):
    options = parse(["train", "--agent", agent])
    assert resolve_agent(options).env.observation == observation
    for named in ("attention_output", "attention_output+run"):
        options = parse(["train", "--agent", agent, "--observation", named])
        assert resolve_agent(options).env.observation == named


def test_the_command_of_a_run_names_the_observation_that_was_named(tmp_path):
    words = ["--agent", "attended", "--observation", "attention_output"]
    trained(tmp_path / "run", [*TINY_OPTIONS, "--epochs", "1", *words])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["options"]["env"]["observation"] == "attention_output"
    again = parse(shlex.split(config["command"])[1:])
    assert resolve_agent(again).env.observation == "attention_output"
    resumed, _ = resumed_options(
        parse(["train", "--resume", str(tmp_path / "run"), "--epochs", "2"])
    )
    assert resolve_agent(resumed).env.observation == "attention_output"
