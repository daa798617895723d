"""Files written by version 0.1 are read, or refused in one line that says why.

`data/run-0.1` was written by
`vit-patch train --agent bandit --sb3 decision_steps=3 --dataset synthetic --patch-size 8 --dim 16
--depth 1 --heads 2 --dim-head 8 --mlp-dim 16 --epochs 2 --n-patches-desired 8 --device cpu
--precision fp32`.
"""

import json
import shutil
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from tests.test_cli import refused
from vit_patch_env.agents import PatchBandit
from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.compare.results import read_comparison
from vit_patch_env.experiments.options.commands import EvaluateOptions
from vit_patch_env.experiments.options.saved import train_options
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.experiments.runs.evaluate import Evaluation

ROOT = Path(__file__).parent.parent
RUN = ROOT / "tests" / "data" / "run-0.1"
VERSION_1 = b"vit-patch-env state\n" + (1).to_bytes(4, "big")


def test_a_runs_options_are_read_under_their_present_names():
    options = RunFolder(RUN).options
    assert options.bandit.decision_steps == 3
    assert options.sb3 == ()
    assert options.sampling == "uniform"
    assert options.dqn.exploration_final_eps == 0.01
    assert options.env.patch_size == 8


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["decision_steps=None", "forgetting=5e-1"], {"decision_steps": None, "forgetting": 0.5}),
        (["policy_kwargs={'draw': 'uniform', 'n_stages': 3}"], {"sampling": "uniform"}),
    ],
)
def test_the_bandits_values_were_texts(texts, values):
    options = train_options({"agent": "bandit", "sb3": texts})
    assert {name: getattr(options.bandit, name) for name in values} == values
    with pytest.raises(ArgumentError, match=r"bandit\.learning is not known"):
        train_options({"agent": "bandit", "sb3": ["learning=False"]})


def test_a_run_is_evaluated_to_the_same_metrics(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(RUN, run)  # as evaluate writes the figures' files that it lacks
    evaluation = Evaluation(EvaluateOptions(run=str(run)), Console(quiet=True))
    with pytest.warns(UserWarning, match=r"without a checksum of config\.json$"):
        evaluation.prepare()
    metrics = evaluation.run()["test"]
    for patches, expected in json.loads((RUN / "result.json").read_text())["test"].items():
        assert metrics[patches] == pytest.approx(expected, rel=1e-4)


def test_an_agent_is_loaded_with_its_values():
    agent = PatchBandit.load(RUN / "agent.zip")
    assert agent.decision_steps == 3
    assert int(agent.policy.of_counts.n_seen) > 0


def test_an_interrupted_run_is_refused_with_the_reason(tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    (run / "result.json").unlink()
    checkpoint = run / "checkpoints" / "step-000000000007.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(VERSION_1 + bytes(100))
    line = refused(capsys, "train", "--resume", str(run))
    assert f"expected a state of version 2 in {checkpoint}, got 1, written by vit-patch-env" in line
    assert checkpoint.exists()


@pytest.mark.long
@pytest.mark.parametrize(
    "path",
    sorted(path.parent for path in (ROOT / "results").glob("*/compare.json")),
    ids=lambda path: path.name,
)
def test_comparisons_are_read_with_a_warning_of_missing_checksums(path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        comparison = read_comparison(path)
    results = [json.loads(file.read_text()) for file in path.glob("runs/*/result.json")]
    are_missing = any("config.json" not in result.get("files", {}) for result in results)
    assert len(caught) == are_missing
    for warning in caught:
        assert str(warning.message).endswith("without a checksum of config.json")
    assert comparison.runs
    assert not comparison.problems
    for run in comparison.runs.values():
        RunFolder(run.path).options  # noqa: B018  (raises where a value is unknown)
