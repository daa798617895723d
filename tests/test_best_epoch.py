"""The best epoch: its weights, and runs that end early after it."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.conftest import TINY_OPTIONS
from tests.faults.runs import trajectory
from tests.test_cli import refused, rows, train
from tests.test_resume import stopped
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.run_folder.tables import EpochMetrics
from vit_patch_env.experiments.runs.best_epoch import BestEpoch

FAST = ("--agent", "random", "--learning-rate", "0.003", "--epochs", "8")
"""A run whose validation loss soon rises."""


def epoch(number, accuracy=0.5, loss=1.0):
    values = dict.fromkeys(EpochMetrics._fields, 0.0)
    return EpochMetrics(**values | {"epoch": number, "val_accuracy": accuracy, "val_loss": loss})


@pytest.mark.parametrize(
    ("by", "values", "best", "n_since"),
    [
        ("accuracy", [0.1, 0.3, 0.3, 0.2], 2, 2),
        ("loss", [3.0, 1.0, 2.0], 2, 1),
        ("loss", [math.nan, 3.0, math.inf], 2, 1),
        ("accuracy", [math.nan, math.nan], 0, 2),
    ],
)
def test_the_best_epoch_is_the_first_of_the_best(by, values, best, n_since):
    model = nn.Linear(1, 1)
    found = BestEpoch(by, keep_weights=True)
    for number, value in enumerate(values, start=1):
        with torch.no_grad():
            model.bias.fill_(number)
        found.add(epoch(number, **{by: value}), model)
    assert (found.epoch, found.n_since) == (best, n_since)
    assert not best or found.weights["bias"].item() == best
    other = BestEpoch(by, keep_weights=True)
    other.load_state_dict(found.state_dict())
    assert (other.epoch, other.n_since) == (best, n_since)


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """The folder and the result of a run that ends early, with averaged weights."""
    out = tmp_path_factory.mktemp("early") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(out.parent / "cache"))
        options = ["--keep-best", "--early-stopping", "2", "--best-by", "loss", "--ema", "0.5"]
        return out, train(out, *FAST, *options), (*FAST, *options)


@pytest.mark.long
def test_a_run_ends_early_as_a_finished_one(early):
    out, result, _ = early
    losses = [float(row["val_loss"]) for row in rows(out)]
    assert len(losses) < 8
    assert result["stopped_early"]
    assert result["n_steps"] == 7 * len(losses)
    best = result["best_epoch"]
    assert best["epoch"] == losses.index(min(losses)) + 1 == len(losses) - 2
    assert best["value"] == pytest.approx(min(losses))
    assert set(result["files"]) >= {"vit.safetensors", "vit_best.safetensors"}


@pytest.mark.parametrize("weights", ["newest", "best"])
def test_both_weights_can_be_evaluated(early, weights, capsys):
    out, result, _ = early
    main(["evaluate", str(out), "--weights", weights])
    shown = capsys.readouterr().out
    same = f"{result['test']['all_patches']['loss']:.4f}" in shown
    assert same == (weights == "newest")
    assert f"{result['test']['agent_patches']['loss']:.4f}" in shown or weights == "best"


@pytest.mark.long
def test_a_run_that_ends_early_resumes_identically(early, tmp_path):
    out, result, options = early
    again = stopped(tmp_path / "run", *options)
    main(["train", "--resume", str(again)])
    assert trajectory(again) == trajectory(out)
    resumed = json.loads((again / "result.json").read_text())
    for name in ("best_epoch", "stopped_early", "test"):
        assert resumed[name] == result[name]
    for name in ("vit.safetensors", "vit_best.safetensors"):
        ours, theirs = load_file(out / name), load_file(again / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_best_epoch_of_a_run_that_does_not_end_early(tmp_path, capsys):
    result = train(tmp_path / "run", "--agent", "all", "--keep-best", "--early-stopping", "9")
    assert not result["stopped_early"]
    assert (tmp_path / "run" / "vit_best.safetensors").is_file()
    train(tmp_path / "run", "--agent", "all", "--overwrite")
    assert not (tmp_path / "run" / "vit_best.safetensors").exists()
    message = refused(capsys, "evaluate", str(tmp_path / "run"), "--weights", "best")
    assert "--weights must be newest for a run without vit_best.safetensors, got best" in message


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--early-stopping", "0"], "--early-stopping must be in [1, inf), got 0"),
        (["--best-by", "f1"], "--best-by must be one of accuracy, loss, got 'f1'"),
        (["--class-weights", "1", "0"], "--class-weights must be"),
        (["--loss", "os.path"], "--loss must be module:function, got 'os.path'"),
        (["--freeze", "tail"], "--freeze must be parts of the model"),
        (["--precision", "fp16"], "--precision must be auto, fp32 or bf16 on a CPU, got fp16"),
    ],
)
def test_bad_options_are_one_line(args, message, tmp_path, capsys):
    line = refused(capsys, "train", *TINY_OPTIONS, "--out", str(tmp_path / "run"), *args)
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_recipes_are_options_and_a_run_can_be_evaluated_without_its_loss(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from torch.nn.functional import cross_entropy\n"
        "def loss(logits, labels): return 2 * cross_entropy(logits, labels)\n"
    )
    recipe = ["--loss", "mine:loss", "--optimizer", "sgd", "--accumulate", "2", "--no-decay-norms"]
    recipe += ["--freeze", "embedding", "--clip-grad-norm", "1", "--layer-decay", "0.7"]
    result = train(tmp_path / "run", "--agent", "all", *recipe)
    for option in ("--loss mine:loss", "--accumulate 2", "--freeze embedding", "--no-decay-norms"):
        assert option in result["command"]
    (tmp_path / "mine.py").unlink()
    main(["evaluate", str(tmp_path / "run")])
    assert f"{result['test']['all_patches']['loss']:.4f}" in capsys.readouterr().out
    balanced = train(tmp_path / "weighted", "--agent", "all", "--class-weights", "balanced")
    assert "--class-weights balanced" in balanced["command"]
