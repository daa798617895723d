"""Runs on a Ray cluster of two nodes, one of which is killed, end as those of this machine."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from tests.conftest import TINY_OPTIONS
from tests.ray_cluster import two_nodes
from vit_patch_env.experiments.agents_by_name.agent_file import read_parameters
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.run_folder.folder import RunFolder

pytestmark = pytest.mark.long

SECONDS = 400
"""After which a command of some seconds has hung."""

COMPARE = ["compare", "--methods", "simple_vit"]
METHODS = ["--methods", "simple_vit", "random16", "--seeds", "0", "1"]
LONG = ["--epochs", "24", "--checkpoint-every", "1s"]


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="needs the extra ray")
    with two_nodes() as nodes:
        yield nodes


def started(*words, cwd=None):
    """A command in a process of its own."""
    return subprocess.Popen(
        [Path(sys.executable).with_name("vit-patch"), *map(str, words)],
        cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(process):
    """Exit status and output of a command."""
    output, _ = process.communicate(timeout=SECONDS)
    return process.returncode, output


def wait_until(condition, seconds=SECONDS):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def results(folder):
    """What must be the same wherever runs are trained."""
    found = {}
    for path in sorted(folder.glob("runs/*")):
        run = RunFolder(path)
        metrics = pd.read_csv(path / "metrics.csv")[["train_loss", "val_loss", "n_selected"]]
        found[path.name] = run.read_result()["test"], metrics.to_dict()
    return found


def n_checkpoints(folder):
    return len(list(folder.glob("runs/*/checkpoints/*.ckpt")))


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A comparison on this machine."""
    pytest.importorskip("ray", reason="needs the extra ray")
    folder = tmp_path_factory.mktemp("local") / "out"
    assert ended(started("compare", *TINY_OPTIONS, *METHODS, *LONG, "--out", folder))[0] == 0
    return folder


def test_a_lost_node_costs_no_finished_run(cluster, local, tmp_path):
    """Relative folders too; the command in compare.json is that without a cluster."""
    command = started(
        "compare", *TINY_OPTIONS, *METHODS, *LONG, "--out", "out", "--ray", cluster.address,
        cwd=tmp_path,
    )  # fmt: skip
    out = tmp_path / "out"
    wait_until(lambda: list(out.glob("runs/*/result.json")) and n_checkpoints(out))
    done = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
    with cluster.one_killed():
        status, output = ended(command)
    assert status == 0, output
    assert "was lost; its runs resume on other nodes" in output
    assert "Traceback" not in output
    assert results(out) == results(local)
    assert done
    assert done == {path: path.stat().st_mtime_ns for path in done}
    commands = [
        json.loads((folder / "compare.json").read_text())["command"] for folder in (out, local)
    ]
    assert commands[0] == commands[1]
    assert not (out / ".shared").exists()


def test_nodes_that_share_no_folder_use_storage(cluster, local, tmp_path):
    """Of a comparison that is lost here, storage has everything."""
    storage, out = tmp_path / "storage", tmp_path / "out"
    words = ["compare", *TINY_OPTIONS, *METHODS, *LONG, "--out", out, "--ray", cluster.address]
    words += ["--storage", f"file://{storage}"]
    command = started(*words)
    wait_until(lambda: list(storage.glob("runs/*/result.json")))
    command.send_signal(signal.SIGTERM)
    assert ended(command)[0] == 128 + signal.SIGTERM
    n_begun = n_checkpoints(storage)
    shutil.rmtree(out)
    status, output = ended(started(*words))
    assert status == 0, output
    assert results(out) == results(local) == results(storage)
    resumed = ["resumed at step" in path.read_text() for path in out.glob("runs/*/log.txt")]
    assert sum(resumed) == n_begun
    shutil.rmtree(out)
    status, output = ended(started(*words))
    assert status == 0, output
    assert results(out) == results(local)
    other = [*words, "--learning-rate", "0.5"]
    status, output = ended(started(*other))
    assert (status, output.count("\n")) == (2, 1)
    assert "learning-rate" in output


def test_a_signal_stops_all_runs_after_a_checkpoint(cluster, tmp_path):
    words = ["compare", *TINY_OPTIONS, *METHODS, "--epochs", "2000", "--out", tmp_path / "out"]
    words += ["--ray", cluster.address]
    command = started(*words)
    wait_until(lambda: len(list(tmp_path.glob("out/runs/*/metrics.csv"))) == 2)
    command.send_signal(signal.SIGTERM)
    status, output = ended(command)
    assert status == 128 + signal.SIGTERM
    assert "Traceback" not in output
    assert n_checkpoints(tmp_path / "out") == 2
    assert not [one for one in psutil.process_iter() if _trains(one, tmp_path)]


def _trains(process, folder):
    try:
        return any(str(folder) in file.path for file in process.open_files())
    except psutil.Error:
        return False


def test_a_study_goes_on_when_a_node_is_lost(cluster, tmp_path):
    words = ["tune", *TINY_OPTIONS, "--epochs", "30", "--trials", "5", "--pruner", "none"]
    command = started(*words, "--out", tmp_path / "study", "--ray", cluster.address)
    wait_until(lambda: "done" in _text(tmp_path / "study" / "trials.csv"))
    with cluster.one_killed():
        status, output = ended(command)
    assert status == 0, output
    assert "was lost" in output
    best = json.loads((tmp_path / "study" / "best.json").read_text())
    assert best["trials"] == "5 done"
    assert "--ray" not in (tmp_path / "study" / "best.json").read_text()


def _text(path):
    return path.read_text() if path.exists() else ""


def test_pretraining_goes_on_when_a_node_is_lost(cluster, tmp_path):
    words = ["pretrain", *TINY_OPTIONS, "--epochs", "4", "--episodes", "24", "--jobs", "2"]
    words += ["--checkpoint-every", "1s"]
    assert ended(started(*words, "--out", tmp_path / "local.zip"))[0] == 0
    command = started(*words, "--out", tmp_path / "ray.zip", "--ray", cluster.address)
    wait_until(lambda: list(tmp_path.glob("ray.unfinished/checkpoints/*.ckpt")))
    with cluster.one_killed():
        time.sleep(1)
    status, output = ended(command)
    assert status == 0, output
    assert "was lost with its node" in output
    expected, found = (read_parameters(tmp_path / one) for one in ("local.zip", "ray.zip"))
    torch.testing.assert_close(found["policy"], expected["policy"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*COMPARE, "--cpus-per-run", "3"], "--cpus-per-run must be at most 1, "),
        ([*COMPARE, "--gpus-per-run", "1"], "--gpus-per-run must fit --device cpu, got 1"),
        ([*COMPARE, "--device", "cuda:0"], "--device must be auto, cuda or cpu for --ray, got c"),
        ([*COMPARE, "--storage", "nonsense://x"], "--storage must be a folder or URL that "),
        (["pretrain", "--jobs", "3", "--out", "a.zip"], "--jobs must be at most 2, what the cl"),
        (["tune", "--cpus-per-run", "3"], "--cpus-per-run must be at most 1, "),
    ],
)
def test_what_the_cluster_does_not_have_is_refused(
    words, message, cluster, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main([words[0], *TINY_OPTIONS, *words[1:], "--ray", cluster.address])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
