"""Runs of other libraries' ViTs from the command line: their files, evaluate, and resume."""

import json

import pytest
import torch
from safetensors.torch import load_file, load_model

from vit_patch_env import select_patches
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.options.flat import command

TRAIN = [
    "train", "--agent", "random", "--model", "timm:test_vit", "--dataset", "synthetic",
    "--image-size", "32", "--patch-size", "8", "--batch-size", "64", "--device", "cpu",
    "--precision", "fp32", "--n-patches-desired", "6",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("timm")
    out = tmp_path_factory.mktemp("runs") / "run"
    main([*TRAIN, "--epochs", "1", "--out", str(out)])
    return out


@pytest.mark.long
def test_weights_of_a_run_go_into_the_plain_model(run):
    import timm

    weights = load_file(run / "vit.safetensors")
    plain = timm.create_model("test_vit", img_size=32, patch_size=8, num_classes=4)
    assert set(weights) == set(plain.state_dict())
    plain.load_state_dict(weights)
    assert plain(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


@pytest.mark.long
def test_a_run_is_evaluated_and_extended(run, capsys):
    before = json.loads((run / "result.json").read_text())["test"]
    main(["evaluate", str(run)])
    said = capsys.readouterr().out
    for patches in ("all_patches", "agent_patches"):
        metrics = before[patches]
        assert f"{metrics['loss']:.4f}" in said
    saved = json.loads((run / "config.json").read_text())["options"]["env"]
    assert (saved["model"], saved["image_size"], saved["dim"]) == ("timm:test_vit", 32, None)
    main(["train", "--resume", str(run), "--epochs", "2"])
    assert json.loads((run / "result.json").read_text())["n_steps"] == 14


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--model", "timm:vit_smal"], "--model must be a model of timm, got 'timm:vit_smal'"),
        (["--dim", "64"], "--dim must be None, as --model timm:test_vit has its own, got 64"),
        (["--image-size", "34"], "--image-size must be divisible by --patch-size"),
        (["--model", "nothing:here"], "--model must be module:function, got 'nothing:here'"),
    ],
)
def test_what_a_model_does_not_take_is_one_line(changes, said, capsys, tmp_path):
    pytest.importorskip("timm")
    with pytest.raises(SystemExit) as stopped:
        main([*TRAIN, *changes, "--out", str(tmp_path / "run")])
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert said in captured.err
    assert captured.err.strip().count("\n") == 0


@pytest.mark.long
def test_the_best_weights_are_the_library_s_and_evaluated(tmp_path):
    timm = pytest.importorskip("timm")
    run = tmp_path / "run"
    main([*TRAIN, "--epochs", "1", "--keep-best", "--out", str(run)])
    main(["evaluate", str(run), "--weights", "best"])
    plain = timm.create_model("test_vit", num_classes=4, img_size=32, patch_size=8)
    load_model(plain, str(run / "vit_best.safetensors"))


def test_a_wrapped_model_has_its_own_sizes_and_the_recorded_command_none():
    timm = pytest.importorskip("timm")
    plain = timm.create_model("test_vit", num_classes=4, img_size=32, patch_size=8)
    config = EnvConfig(model=select_patches(plain), dataset="synthetic")
    assert (config.image_size, config.patch_size) == (32, 8)
    options = TrainOptions(env=EnvConfig(model="timm:test_vit", image_size=32))
    words = command("train", options, TrainOptions())
    assert words == "vit-patch train --image-size 32 --model timm:test_vit"
    options = TrainOptions(env=EnvConfig(image_size=64, n_patches_desired=40))
    assert "--n-patches-desired 40" in command("train", options, TrainOptions())
