"""What a node of a cluster does, and storage for nodes that share no folder, without a cluster."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY_OPTIONS
from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.cluster import node
from vit_patch_env.experiments.cluster.executor import Resources
from vit_patch_env.experiments.cluster.node import SHARED, Call, call_on_node
from vit_patch_env.experiments.cluster.storage import Storage
from vit_patch_env.experiments.compare.configuration import compare_command
from vit_patch_env.experiments.compare.stored import exchange_finished, together
from vit_patch_env.experiments.options.commands import ClusterOptions
from vit_patch_env.experiments.process.executor import RunFiles
from vit_patch_env.experiments.run_folder.folder import RunFolder


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in found}


@pytest.fixture
def folder(tmp_path):
    """A comparison with two runs, of which one has checkpoints."""
    folder = tmp_path / "here"
    write(folder / "compare.json", "{}")
    write(folder / "agents/agent.zip", "agent")
    write(folder / "runs/a__0/metrics.csv", "1")
    write(folder / "runs/a__0/checkpoints/step-1.ckpt", "state 1")
    write(folder / "runs/b__0/result.json", "result")
    return folder


def test_what_was_sent_can_be_fetched_part_by_part(folder, tmp_path):
    storage = Storage(f"file://{tmp_path}/there", folder)
    for part in (folder, folder / "runs/a__0", folder / "runs/b__0"):
        storage.send(part)
    assert files(tmp_path / "there") == files(folder)
    other = tmp_path / "other"
    elsewhere = Storage(storage.url, other)
    elsewhere.fetch(other)
    assert sorted(files(other)) == ["agents/agent.zip", "compare.json"]
    elsewhere.fetch(other / "runs/a__0")
    elsewhere.fetch(other / "runs/none__0")
    expected = {name: text for name, text in files(folder).items() if "b__0" not in name}
    assert files(other) == expected
    assert elsewhere.has(other / "runs/b__0/result.json")
    assert not elsewhere.has(other / "runs/b__0/vit.safetensors")


def test_only_what_has_changed_is_sent_and_what_is_gone_is_removed(folder, tmp_path):
    storage, run = Storage(f"file://{tmp_path}/there", folder), folder / "runs/a__0"
    storage.send(run)
    (tmp_path / "there/runs/a__0/checkpoints/step-1.ckpt").write_text("kept")
    write(run / "metrics.csv", "1\n2")
    write(run / "checkpoints/step-2.ckpt", "state 2")
    write(run / ".lock", "")
    storage.send(run)
    assert files(tmp_path / "there") == {
        "runs/a__0/metrics.csv": "1\n2",
        "runs/a__0/checkpoints/step-1.ckpt": "kept",
        "runs/a__0/checkpoints/step-2.ckpt": "state 2",
    }
    (run / "checkpoints/step-1.ckpt").unlink()
    storage.send(run)
    assert "runs/a__0/checkpoints/step-1.ckpt" not in files(tmp_path / "there")


def test_checkpoints_are_sent_first_and_the_result_last(folder, tmp_path):
    write(folder / "runs/a__0/result.json", "result")
    storage = Storage(f"file://{tmp_path}/there", folder)
    sent = []
    storage._send = lambda path: sent.append(path.name)
    storage.send(folder / "runs/a__0")
    assert sent == ["step-1.ckpt", "metrics.csv", "result.json"]


def test_runs_in_storage_are_kept_when_the_folder_is_sent(folder, tmp_path):
    """Those that this machine has fetched may be cleared here by another process."""
    storage, run = Storage(f"file://{tmp_path}/there", folder), folder / "runs/a__0"
    storage.send(run)
    storage.fetch(run)
    shutil.rmtree(run)
    storage.send(folder)
    assert (tmp_path / "there/runs/a__0/checkpoints/step-1.ckpt").exists()
    shutil.rmtree(tmp_path / "there/runs")
    storage.send(folder / "runs")  # gone in both places


def test_a_run_that_is_not_fetched_to_its_end_has_no_result(folder, tmp_path, monkeypatch):
    run = folder / "runs/a__0"
    write(run / "result.json", "result")
    write(run / "steps.csv", "1")
    storage = Storage(f"file://{tmp_path}/there", folder)
    storage.send(run)
    copy = storage.copy

    def failing(path, to):
        if path.name == "steps.csv":
            raise OSError("lost")
        copy(path, to)

    monkeypatch.setattr(storage, "copy", failing)
    with pytest.raises(OSError, match="lost"):
        storage.fetch(run)
    assert sorted(files(run)) == ["checkpoints/step-1.ckpt", "metrics.csv"]


def test_storage_knows_the_newest_checkpoint(folder, tmp_path):
    storage, run = Storage(f"file://{tmp_path}/there", folder), folder / "runs/a__0"
    assert storage.newest_checkpoint(run) == ""
    write(run / "checkpoints/step-2.ckpt", "state 2")
    storage.send(run)
    assert storage.newest_checkpoint(run) == "step-2.ckpt"


def test_two_folders_of_a_comparison_become_one(folder, tmp_path):
    """With storage between them; what either has finished is in both."""
    here, there = (
        {"methods": ["a"], "seeds": [0], "agents": {"x": 1}, "env": 1},
        {"methods": ["b", "a"], "seeds": [0, 1], "agents": {"y": 2}, "env": 2},
    )
    assert together(here, there) == {
        "methods": ["a", "b"], "seeds": [0, 1], "agents": {"x": 1, "y": 2}, "env": 1,
    }  # fmt: skip
    assert together({}, there) == there
    storage = Storage(f"file://{tmp_path}/there", folder)
    write(tmp_path / "there/runs/c__0/result.json", "result")
    exchange_finished(storage, [RunFolder(folder / f"runs/{name}__0") for name in "abc"])
    assert (folder / "runs/c__0/result.json").exists()
    assert sorted(files(tmp_path / "there")) == ["runs/b__0/result.json", "runs/c__0/result.json"]


def test_storage_within_the_folder_is_refused(folder):
    for url in (folder, folder / "copy", folder.parent):
        with pytest.raises(ArgumentError, match="storage must be apart from out"):
            Storage(str(url), folder)


class Cluster:
    """A cluster of these nodes, as `Connection` shows it."""

    def __init__(self, *nodes):
        self._nodes = {str(place): {"Resources": one} for place, one in enumerate(nodes)}

    def nodes(self):
        return self._nodes


def resources(*nodes, device="auto", **options):
    return Resources(Cluster(*nodes), ClusterOptions(**options), device)


def test_runs_have_room_on_nodes_that_have_all_they_need():
    nodes = {"CPU": 8.0}, {"CPU": 4.0, "GPU": 2.0}
    assert resources({"CPU": 3.0}, {"CPU": 1.0}).room == 4
    assert resources(*nodes, device="cpu", cpus_per_run=3).room == 3
    assert resources(*nodes).n_gpus == 1
    assert resources(*nodes).room == 2
    assert resources(*nodes, gpus_per_run=0.5).room == 4
    assert resources(*nodes, gpus_per_run=0.0, cpus_per_run=4).room == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpus_per_run": 9}, "cpus_per_run must be at most 8, what one node has of them, got 9"),
        ({"cpus_per_run": 8}, "gpus_per_run must fit on a node beside cpus_per_run 8, got 1"),
        ({"gpus_per_run": 1.5}, "gpus_per_run must be an integer, or at most 1 with 4 digits"),
        ({"gpus_per_run": 0.00001}, "gpus_per_run must be an integer, or at most 1 with 4 digits"),
        ({"gpus_per_run": 3.0}, "gpus_per_run must be at most 2, what one node has of them, got 3"),
        ({"device": "cuda:1"}, "device must be auto, cuda or cpu for ray, got cuda:1"),
        ({"device": "cuda", "gpus_per_run": 0.0}, "gpus_per_run must fit device cuda, got 0"),
    ],
)
def test_what_no_node_has_is_refused(options, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        resources({"CPU": 8.0}, {"CPU": 4.0, "GPU": 2.0}, **options)


def test_a_run_that_is_fetched_replaces_what_is_here(folder, tmp_path):
    run = folder / "runs/a__0"
    Storage(f"file://{tmp_path}/there", folder).send(run)
    write(run / "metrics.csv", "older")
    write(run / "checkpoints/step-0.ckpt", "older")
    write(run / ".lock", "")
    Storage(f"file://{tmp_path}/there", folder).fetch(run)
    assert files(run) == {
        "metrics.csv": "1", "checkpoints/step-1.ckpt": "state 1", ".lock": "",
    }  # fmt: skip


def test_storage_has_the_same_url_on_every_node(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Storage("there", folder).url == f"file://{tmp_path}/there"
    url = "simplecache::memory://there"
    assert Storage(url, folder).url == url


def test_storage_that_cannot_be_used_is_refused(folder, tmp_path):
    write(tmp_path / "file", "")
    for url in ("nonsense://x", str(tmp_path / "file")):
        with pytest.raises(ArgumentError, match="must be a folder or URL that fsspec can write"):
            Storage(url, folder).check()
    Storage(str(tmp_path / "there"), folder).check()
    assert files(tmp_path / "there") == {}


def _write_where_it_is(path, text):
    write(Path(path), f"{text} {Path.cwd()} {os.environ['CUDA_VISIBLE_DEVICES']!r}")


def _call(tmp_path, **changes):
    run = tmp_path / "out/runs/a__0"
    write(tmp_path / "out" / SHARED, "key")
    found = RunFiles(tmp_path / "out", run)
    call = Call(
        _write_where_it_is, ("out/runs/a__0/text", "hello"), found, "key", str(tmp_path), False,
    )  # fmt: skip
    return call._replace(**changes)


def test_a_node_calls_a_function_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    text = tmp_path / "out/runs/a__0/text"
    assert call_on_node(_call(tmp_path, uses_gpus=True)) == 0
    assert text.read_text() == f"hello {tmp_path} '3'"
    assert call_on_node(_call(tmp_path, target=sys.exit, args=(7,))) == 7
    write(text.with_name("result.json"), "")
    assert call_on_node(_call(tmp_path, target=sys.exit, args=(7,))) == 0


def test_a_node_sends_what_a_run_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # which a run without GPUs does not see
    there = tmp_path / "there"
    write(there / "runs/a__0/checkpoints/step-1.ckpt", "state")
    files_of_run = RunFiles(tmp_path / "out", tmp_path / "out/runs/a__0", (), f"file://{there}")
    assert call_on_node(_call(tmp_path, files=files_of_run, key="another")) == 0
    assert (tmp_path / "out/runs/a__0/checkpoints/step-1.ckpt").read_text() == "state"
    assert (there / "runs/a__0/text").read_text() == f"hello {tmp_path} ''"


NOWHERE = RunFiles(Path("nowhere"), Path("nowhere/runs/a__0"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": NOWHERE}, "out must be on storage that all nodes share, got .*: on node .* the"),
        ({"key": "other"}, "out must be on storage that all nodes share, got .*: on node .* that "),
    ],
)
def test_a_node_that_cannot_train_says_why(changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(node, "_FOLDER_SECONDS", 0.0)
    with pytest.raises(InputError, match=message):
        call_on_node(_call(tmp_path, **changes))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "--cpus-per-run", "2"], "--cpus-per-run is for --ray, got 2"),
        (["tune", "--gpus-per-run", "0.5"], "--gpus-per-run is for --ray, got 0.5"),
        (["compare", "--storage", "x"], "--storage is for --ray, got x"),
        (["pretrain", "--gpus-per-run", "-1", "--out", "a.zip"], "--gpus-per-run must be"),
    ],
)
def test_options_of_a_cluster_need_one(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _assert_refused([*words, *TINY_OPTIONS], message, capsys)
    assert list(tmp_path.iterdir()) == []


def test_ray_is_an_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["compare", *TINY_OPTIONS, "--methods", "simple_vit", "--ray", "auto"]
    _assert_refused(
        [*words, "--out", str(tmp_path / "out")], "ray needs the extra ray, pip", capsys
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("auto", "--ray must be the address of a Ray cluster, got auto: this machine is not part"),
        ("127.0.0.1:1", "--ray must be the address of a Ray cluster, got 127.0.0.1:1: "),
        ("nowhere", "--ray must be auto or <host>:<port>, got nowhere"),
        ("ray://127.0.0.1:10001", "--ray must be auto or <host>:<port>, got ray://127.0.0.1"),
    ],
)
def test_a_cluster_that_does_not_exist_is_refused(address, message, tmp_path, monkeypatch, capsys):
    ray = pytest.importorskip("ray", reason="needs the extra ray")

    # Ray would wait for minutes for a cluster that has ended without `ray stop`.
    monkeypatch.setattr(ray, "init", lambda *args, **options: pytest.fail("Ray was asked"))
    words = ["compare", *TINY_OPTIONS, "--methods", "simple_vit", "--ray", address]
    for of_this_machine in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        monkeypatch.setenv("RAY_ADDRESS", of_this_machine)
        _assert_refused([*words, "--out", str(tmp_path / "out")], message, capsys)


def test_the_recorded_command_is_that_of_one_machine():
    words = ["--ray", "auto", "--cpus-per-run", "2", "--storage", "x", "--jobs", "2"]
    options = parse(["compare", *words])
    command = compare_command(options, ["simple_vit"], [0])
    assert command == "vit-patch compare --preset smoke --methods simple_vit --seeds 0 --jobs 2"


def _assert_refused(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
