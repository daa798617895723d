"""`vit-patch train` from given weights, which its folder keeps."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY, TINY_OPTIONS
from tests.faults.runs import trajectory
from tests.test_cli import refused
from tests.test_resume import stopped, train
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.cli import main


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights of a finished run."""
    out = tmp_path_factory.mktemp("first") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(out.parent / "cache"))
        train(out, "--agent", "random", "--mean", "0.1", "0.2", "0.3")
    return out / "vit.safetensors"


def given(weights, tmp_path):
    """Options with a copy of the weights, which may be removed."""
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes(weights.read_bytes())
    return copy, ["--agent", "random", "--weights", str(copy), "--new-head"]


@pytest.mark.long
@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_a_run_is_resumed_and_evaluated_without_the_file(
    weights, tmp_path, with_checkpoint, capsys
):
    copy, options = given(weights, tmp_path)
    train(tmp_path / "whole", *options)
    run = stopped(tmp_path / "run", *options)
    if not with_checkpoint:
        for path in (run / "checkpoints").iterdir():
            path.unlink()
    copy.unlink()
    main(["train", "--resume", str(run)])
    assert trajectory(run) == trajectory(tmp_path / "whole")
    capsys.readouterr()
    main(["evaluate", str(run)])
    assert "all patches" in capsys.readouterr().out


@pytest.mark.long
def test_a_finished_run_is_extended_without_the_file(weights, tmp_path):
    copy, options = given(weights, tmp_path)
    train(tmp_path / "run", *options)
    train(tmp_path / "longer", *options, "--epochs", "4")
    copy.unlink()
    main(["train", "--resume", str(tmp_path / "run"), "--epochs", "4"])
    extended = trajectory(tmp_path / "run")
    del extended["extensions"]
    assert extended == trajectory(tmp_path / "longer")


def test_a_run_s_weights_come_with_its_preparation_of_images(weights):
    env = ViTPatchSelectEnv(**TINY, weights=str(weights))
    result = json.loads((weights.parent / "result.json").read_text())
    assert env.config.mean == tuple(result["normalize_mean"]) == (0.1, 0.2, 0.3)
    assert env.config.std == pytest.approx(result["normalize_std"], abs=1e-6)
    env.reset(seed=5)
    for name, weight in env.episode.model.state_dict().items():
        assert torch.equal(weight, load_file(weights)[name])
    evaluated = env.evaluate("test")
    assert evaluated.loss == pytest.approx(result["test"]["all_patches"]["loss"], abs=1e-6)


def test_the_images_may_be_asked_for_before_the_first_reset(weights):
    with ViTPatchSelectEnv(**TINY, weights=str(weights), new_head=True) as env:
        assert len(env.data.classes) == 4
    env = ViTPatchSelectEnv(**{**TINY, "dataset": "digits"}, weights=str(weights))
    with pytest.raises(ArgumentError, match="a head of 10 classes, as the data set, got 4"):
        env.data  # noqa: B018


def test_methods_are_compared_from_the_weights(weights, tmp_path):
    copy, options = given(weights, tmp_path)
    options += ["--epochs", "2"]
    methods = ["--methods", "simple_vit", "random8", "--seeds", "5"]
    main(["compare", *TINY_OPTIONS, *options[2:], *methods, "--out", str(tmp_path / "compared")])
    train(tmp_path / "run", "--agent", "all", *options[2:], "--seed", "5", "--observation", "none")
    for method in ("simple_vit", "random8"):
        run = tmp_path / "compared" / "runs" / f"{method}__5"
        assert json.loads((run / "config.json").read_text())["options"]["env"]["new_head"]
        kept = load_file(run / "given_weights.safetensors")
        assert all(torch.equal(kept[name], one) for name, one in load_file(copy).items())
    whole, compared = tmp_path / "run", tmp_path / "compared" / "runs" / "simple_vit__5"
    assert (whole / "selected.csv").read_text() == (compared / "selected.csv").read_text()
    assert outcome(whole) == outcome(compared)


def outcome(run):
    return json.loads((run / "result.json").read_text())["test"]


@pytest.mark.parametrize("command", [["train"], ["compare", "--methods", "simple_vit"]])
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dim", "32"], "--weights must be those of simple_vit in "),
        (
            ["--dataset", "digits"],
            "--weights must have a head of 10 classes, as the data set, got 4 classes: --new-head",
        ),
        (
            ["--dataset", "digits", "--new-head", "--mean", "0.5", "--std", "0.5"],
            "embedding.0.weight of shape (192,) instead of (64,)",
        ),
        (["--pretrained"], "--weights must not be given with --pretrained"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_no_folder(
    weights, tmp_path, command, args, message, capsys
):
    words = [
        *command,
        *TINY_OPTIONS,
        "--weights",
        str(weights),
        "--out",
        str(tmp_path / "run"),
        *args,
    ]
    assert message in refused(capsys, *words)
    assert not (tmp_path / "run").exists()


def test_a_damaged_copy_of_the_weights_is_named(weights, tmp_path, capsys):
    run = stopped(tmp_path / "run", *given(weights, tmp_path)[1])
    (run / "given_weights.safetensors").write_bytes(b"damaged")
    capsys.readouterr()
    message = refused(capsys, "train", "--resume", str(run))
    assert "--weights must be readable" in message
    assert "given_weights.safetensors" in message


@pytest.mark.long
def test_an_overwritten_run_may_be_the_one_that_the_weights_are_of(tmp_path):
    train(tmp_path / "run", "--agent", "random")
    before = load_file(tmp_path / "run" / "vit.safetensors")
    own = str(tmp_path / "run" / "vit.safetensors")
    train(tmp_path / "run", "--agent", "random", "--weights", own, "--overwrite")
    kept = load_file(tmp_path / "run" / "given_weights.safetensors")
    assert all(torch.equal(kept[name], before[name]) for name in before)
