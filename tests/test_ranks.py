"""Several processes that train one ViT do what a single one does."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY, TINY_OPTIONS
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.run_folder.folder import RunFolder

ROOT = Path(__file__).parent.parent

SECONDS = 240
"""After which a run of a few seconds has hung."""

CASES = [
    {
        "observation": "attention_standardized+run", "observe_images": 40, "per_image": True,
        "budget": "flops", "reward": "validation", "reward_every": 5, "reward_images": 100,
        "accumulate": 2, "ema": 0.9, "epochs": 3,
    },
    {},
    {"observation": "attention_received", "observe_images": 20, "clip_grad_norm": 0.1},
    {"model": "vit", "observation": "class_attention", "optimizer": "adamw"},
    {"reward": "progress", "epochs": 3, "accumulate": 3, "class_weights": [1.0, 5.0, 0.1, 2.0]},
]  # fmt: skip


def launched(*words, n=2):
    """The command that runs a module in so many processes."""
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), "-m", *words]


def run(*words, n):
    """Run a module to its end, in one process or several."""
    command = [sys.executable, "-m", *words] if n == 1 else launched(*words, n=n)
    subprocess.run(command, cwd=ROOT, check=True, timeout=SECONDS)


@pytest.mark.long
@pytest.mark.parametrize("arguments", CASES)
def test_two_processes_with_half_the_batch_equal_one_with_the_whole(arguments, tmp_path):
    """To the end of a run, or for 50 steps; with a load in between."""
    paths = [tmp_path / "one.pt", tmp_path / "two.pt"]
    for n, path in enumerate(paths, 1):
        run("tests.together", str(path), json.dumps(arguments | {"distributed": n > 1}), n=n)
    expected, found = map(torch.load, paths)
    assert len(expected["losses"]) > 20
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.long
def test_a_run_of_two_processes_equals_that_of_one_and_is_evaluated_by_one(tmp_path, capsys):
    options = [
        *TINY_OPTIONS, "--agent", "pretrained", "--budget", "flops", "--reward", "validation",
        "--reward-every", "10", "--epochs", "8", "--accumulate", "2", "--ema", "0.9",
    ]  # fmt: skip
    folders = [tmp_path / "one", tmp_path / "two"]
    main(["train", *options, "--out", str(folders[0])])
    run("vit_patch_env.experiments.train", *options, "--out", str(folders[1]), n=2)
    expected, found = (RunFolder(folder).read_result() for folder in folders)
    assert RunFolder(folders[1]).read_steps() == RunFolder(folders[0]).read_steps()
    assert found["flops"] == expected["flops"]
    weights = [load_file(folder / "vit.safetensors") for folder in folders]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-5)
    assert "distributed" not in (folders[1] / "config.json").read_text()
    capsys.readouterr()
    main(["evaluate", str(folders[1])])
    assert "all patches" in capsys.readouterr().out.lower()


def test_it_needs_a_launcher():
    with pytest.raises(ValueError, match="distributed needs the processes of torchrun"):
        ViTPatchSelectEnv(**TINY, distributed=True)


def test_one_launched_process_trains_alone(monkeypatch):
    for name, value in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)):
        monkeypatch.setenv(name, str(value))
    env = ViTPatchSelectEnv(**TINY, distributed=True)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    pickle.dumps(env)


@pytest.fixture
def as_of_three(monkeypatch):
    for name, value in (("WORLD_SIZE", 3), ("RANK", 0), ("LOCAL_RANK", 0)):
        monkeypatch.setenv(name, str(value))


def refused(capsys, *args):
    """The line that a command is refused with."""
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.usefixtures("as_of_three")
def test_a_batch_that_cannot_be_divided_is_refused(tmp_path, capsys):
    line = refused(capsys, "train", *TINY_OPTIONS, "--out", str(tmp_path / "run"))
    assert "--batch-size is that of all processes together" in line
    assert line.endswith("must be divisible by their number, 3, got 64")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("as_of_three")
def test_other_trainings_are_refused(tmp_path, capsys):
    line = refused(capsys, "compare", *TINY_OPTIONS, "--out", str(tmp_path / "all"))
    assert "torchrun is for vit-patch train, got vit-patch compare" in line


def test_a_launcher_that_does_not_say_which_process_this_is_is_named(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = refused(capsys, "train", *TINY_OPTIONS)
    assert line.endswith("as torchrun sets them, got none of RANK, LOCAL_RANK")


@contextmanager
def launcher(*words, n, errors):
    """A launcher, which is ended with all its processes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with errors.open("w") as file:
        process = subprocess.Popen(launched(*words, n=n), cwd=ROOT, env=environment, stderr=file)
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(process.pid)
            for one in [*own.children(recursive=True), own]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait()


def steps_saved(folder):
    """The steps after which there is a checkpoint."""
    return {path.name for path in folder.glob("checkpoints/step-*.ckpt")}


def wait_for_another_checkpoint(folder, before=frozenset()):
    until = time.monotonic() + SECONDS
    while not steps_saved(folder) - before:
        assert time.monotonic() < until
        time.sleep(0.2)


def of_rank(process, rank):
    """The process of a rank."""
    for one in psutil.Process(process.pid).children(recursive=True):
        if one.environ().get("RANK") == str(rank):
            return one
    raise AssertionError


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_the_loss_of_a_process_ends_all_and_any_number_resumes(rank, tmp_path):
    folder, errors = tmp_path / "run", tmp_path / "errors.txt"
    module, every = "vit_patch_env.experiments.train", ["--checkpoint-every", "1s"]
    words = [module, *TINY_OPTIONS, "--epochs", "3000", *every, "--out", str(folder)]
    with launcher(*words, n=2, errors=errors) as process:
        wait_for_another_checkpoint(folder)
        of_rank(process, rank).send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert process.wait(60) != 0
        assert time.monotonic() - killed < 30
    before = steps_saved(folder)
    lines = [line for line in errors.read_text().splitlines() if line.startswith("vit-patch: ")]
    assert any("one of them has ended" in line for line in lines)
    assert any("resume with: vit-patch train --resume" in line for line in lines) == (rank == 1)
    with launcher(module, "--resume", str(folder), *every, n=4, errors=errors) as process:
        wait_for_another_checkpoint(folder, before)
