"""Several processes that train one ViT do what a single one does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.conftest import TINY_OPTIONS
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.experiments.cli import main

ROOT = Path(__file__).parent.parent

CASES = [
    {
        "observation": "attention_standardized+run", "observe_images": 40, "per_image": True,
        "budget": "flops", "reward": "validation", "reward_every": 5, "reward_images": 100,
        "accumulate": 2, "ema": 0.9,
    },
    {},
    {"observation": "attention_received", "observe_images": 20, "clip_grad_norm": 0.1},
    {"model": "vit", "observation": "class_attention", "optimizer": "adamw"},
]  # fmt: skip


def launch(*words, n=2):
    """The command that runs a module in so many processes."""
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), "-m", *words]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("arguments", CASES)
def test_two_processes_with_half_the_batch_equal_one_with_the_whole(arguments, tmp_path):
    found = {}
    for name, command in (
        ("one", [sys.executable, "-m", "tests.together"]),
        ("two", launch("tests.together")),
    ):
        path = tmp_path / f"{name}.pt"
        together = {**arguments, "distributed": name == "two"}
        subprocess.run([*command, path, json.dumps(together)], cwd=ROOT, check=True)
        found[name] = torch.load(path)
    for name, expected in found["one"].items():
        torch.testing.assert_close(found["two"][name], expected, atol=1e-5, rtol=1e-5)


def test_it_needs_several_processes():
    with pytest.raises(ValueError, match="distributed needs the processes of torchrun"):
        ViTPatchSelectEnv(distributed=True)


@pytest.fixture
def as_of_three(monkeypatch):
    for name, value in (("WORLD_SIZE", 3), ("RANK", 0), ("LOCAL_RANK", 0)):
        monkeypatch.setenv(name, str(value))


@pytest.mark.usefixtures("as_of_three")
def test_a_batch_that_cannot_be_divided_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", *TINY_OPTIONS, "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "must be divisible by their number, 3, got 64" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("as_of_three")
def test_other_commands_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["compare", *TINY_OPTIONS, "--out", str(tmp_path / "all")])
    assert ended.value.code == 2
    assert "torchrun is for vit-patch train, got vit-patch compare" in capsys.readouterr().err


def of_rank(launcher, rank):
    """The process of a rank."""
    for process in psutil.Process(launcher.pid).children(recursive=True):
        if process.environ().get("RANK") == str(rank):
            return process
    raise AssertionError


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_the_loss_of_a_process_ends_all_and_any_number_goes_on(rank, tmp_path):
    run, errors = tmp_path / "run", tmp_path / "errors.txt"
    words = [
        "vit_patch_env.experiments.train", *TINY_OPTIONS, "--epochs", "3000", "--checkpoint-every",
        "1s", "--out", str(run),
    ]  # fmt: skip
    with errors.open("w") as file:
        launcher = subprocess.Popen(launch(*words), cwd=ROOT, stderr=file)
    until = time.monotonic() + 120
    while not list(run.glob("checkpoints/*")) and time.monotonic() < until:
        time.sleep(0.2)
    of_rank(launcher, rank).send_signal(signal.SIGKILL)
    assert launcher.wait(30) != 0
    lines = [line for line in errors.read_text().splitlines() if line.startswith("vit-patch: ")]
    assert len(lines) == 1
    assert "one of them has ended" in lines[0]
    assert ("resume with: vit-patch train --resume" in lines[0]) == (rank == 1)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    resumed = [*launch("vit_patch_env.experiments.train", n=4), "--resume", str(run)]
    resuming = subprocess.Popen(resumed, cwd=ROOT, env=environment)
    before = max(run.glob("checkpoints/*"), key=lambda path: path.stat().st_mtime).stat().st_mtime
    until = time.monotonic() + 120
    while time.monotonic() < until:
        newest = max((path.stat().st_mtime for path in run.glob("checkpoints/*")), default=0)
        if newest > before:
            break
        time.sleep(0.2)
    assert newest > before
    resuming.send_signal(signal.SIGTERM)
    resuming.wait(60)
