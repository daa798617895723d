"""Files of runs from elsewhere: hostile or damaged ones are one line, whatever reads them."""

import hashlib
import io
import json
import os
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import TINY, TINY_OPTIONS
from tests.fabricated import fabricate, write_result
from tests.interrupted_runs import learn, new_agent, stopped_twice
from tests.test_cli import refused
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import MultiOutputDQN
from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.config import EnvConfig
from vit_patch_env.data.store import DECODED, EMPTY, GREY, Store
from vit_patch_env.experiments import RunCheckpoint
from vit_patch_env.experiments.agents_by_name.agent_file import CARD, read_card
from vit_patch_env.experiments.agents_by_name.factory import make_agent
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.compare.results import read_comparison, read_run
from vit_patch_env.experiments.options.commands import DQNOptions, TrainOptions
from vit_patch_env.experiments.run_folder.folder import RunFolder, how_it_failed
from vit_patch_env.models.kernels import build
from vit_patch_env.system.files import load_state, save_state

DEEP = "[" * 200_000 + "]" * 200_000


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        main(["train", *TINY_OPTIONS, "--epochs", "1", "--out", str(root / "run")])
    return root / "run"


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def comparison(tmp_path):
    return fabricate(tmp_path / "c", methods=("simple_vit",), seeds=(0,), epochs=3, side=4)


def fit_checksums(run):
    path = run / "result.json"
    result = json.loads(path.read_text())
    for name in result["files"]:
        result["files"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(result))


def change_config(run, **env):
    path = run / "config.json"
    config = json.loads(path.read_text())
    config["options"]["env"] |= env
    path.write_text(json.dumps(config))


# config.json


@pytest.mark.long
def test_another_configuration_of_a_finished_run_is_noticed_by_its_checksum(run, capsys):
    change_config(run, heads=4, dim_head=4)
    line = refused(capsys, "evaluate", str(run))
    assert f"{run}: damaged: config.json differs from its checksum in result.json" in line


def test_another_configuration_is_noticed_by_comparisons(comparison):
    run = comparison / "runs" / "simple_vit__0"
    change_config(run, model="vit", keep_rate=None)
    with pytest.raises(InputError, match=r"config\.json differs from its checksum in result\.json"):
        read_run(run)
    assert not read_comparison(comparison).runs


@pytest.mark.long
def test_a_run_without_a_checksum_of_its_configuration_is_read_with_a_warning(run):
    path = run / "result.json"
    result = json.loads(path.read_text())
    for name in ("config.json", "agent.zip"):
        del result["files"][name]
    path.write_text(json.dumps(result))
    message = r"of an older version, without a checksum of config\.json, agent\.zip$"
    with pytest.warns(UserWarning, match=message):
        RunFolder(run).check_files("config.json", "vit.safetensors", "agent.zip")


def test_a_damaged_name_in_a_result_is_not_taken_for_an_older_version(run):
    path = run / "result.json"
    path.write_text(path.read_text().replace("vit.safetensors", "viT.safetensors"))
    with pytest.raises(InputError, match=r"has a checksum of viT\.safetensors, which no run has"):
        RunFolder(run).check_files("vit.safetensors")


@pytest.mark.parametrize("name", ["config.json", "result.json"])
@pytest.mark.parametrize("text", [DEEP, '{"a": ' + "9" * 5000 + "}", "\ufeff{}"])
def test_json_beyond_bounds_is_one_line(name, text, run, capsys):
    (run / name).write_text(text, encoding="utf-8")
    if name == "config.json":
        fit_checksums(run)
    assert f"expected JSON in {run / name}, got: " in refused(capsys, "evaluate", str(run))


def test_json_beyond_bounds_is_one_line_of_report_tune_and_agents(
    comparison, run, tmp_path, capsys
):
    (comparison / "compare.json").write_text(DEEP)
    assert "nested more than 64 deep" in refused(capsys, "report", str(comparison))
    rewritten(run / "agent.zip", {CARD: DEEP})
    line = refused(capsys, "train", "--agent", str(run / "agent.zip"), "--out", str(tmp_path / "o"))
    assert "must be a file that vit-patch pretrain wrote" in line
    assert "nested more than 64 deep" in line


# Where images are expected


@pytest.mark.parametrize("dataset", ["cifar10", "fashion_mnist", "torchvision:SVHN"])
def test_nothing_is_downloaded_to_a_folder_that_a_file_names(
    dataset, run, tmp_path, capsys, monkeypatch
):
    elsewhere = tmp_path / "elsewhere" / "images"
    change_config(run, dataset=dataset, data_dir=str(elsewhere))
    fit_checksums(run)
    monkeypatch.setattr(
        "torchvision.datasets.utils.urllib.request.urlopen", lambda *_, **__: pytest.fail("asked")
    )
    line = refused(capsys, "evaluate", str(run))
    assert f"in {elsewhere}, where the run had them" in line
    assert "--data-dir gives another folder" in line
    assert not elsewhere.parent.exists()


def test_images_are_downloaded_to_a_folder_that_the_user_names(run, tmp_path, capsys, monkeypatch):
    asked = []

    def refuse(request, *_, **__):
        asked.append(getattr(request, "full_url", request))
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    change_config(run, dataset="cifar10", data_dir=str(tmp_path / "elsewhere"))
    fit_checksums(run)
    line = refused(capsys, "evaluate", str(run), "--data-dir", str(tmp_path / "mine"))
    assert f"expected the files of CIFAR10 in {tmp_path / 'mine'} or a network" in line
    assert asked
    assert not (tmp_path / "elsewhere").exists()


# Tables


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("steps.csv", "n_selected\n1\nx\n", "could not convert string to float: 'x'"),
        ("steps.csv", "n_selected\n1\n\n2\n", "expected epochs and steps, got some without"),
        ("steps.csv", "n_selected\n-1\n", r"n_selected in \[0, 1e\+30\] in steps.csv, got -1"),
        ("steps.csv", 'n_selected\n"1"\n', "a row of other columns, or letters"),
        ("steps.csv", "n_selected,n_selected\n1,2\n", "2 columns, of which 1 differ"),
        ("steps.csv", ",".join(map(str, range(200_000))) + ",n_selected\n", "200001 columns"),
        ("steps.csv", "n_selected\n1,2\n", "a row of other columns"),
        ("steps.csv", "n_selected\n" + "9" * 400 + "\n", "got inf"),
        ("metrics.csv", "epoch\n1\n", "expected train_loss, val_loss"),
        ("selected.csv", "epoch,0\n1,0.5\n2,0.5\n3,0.5\n", "expected 3 epochs and 16 patches"),
        ("selected.csv", "", "expected 3 epochs and 16 patches|No columns"),
    ],
)  # fmt: skip
def test_a_hostile_table_with_a_fitting_checksum_is_one_line(name, text, problem, comparison):
    run = comparison / "runs" / "simple_vit__0"
    (run / name).write_text(text)
    write_result(run, json.loads((run / "result.json").read_text()))
    with pytest.raises(InputError, match=rf"^{run}: damaged: [^\n]*({problem})"):
        read_run(run)


def test_the_rows_of_a_large_table_are_counted_before_it_is_read(comparison, monkeypatch):
    monkeypatch.setattr("vit_patch_env.experiments.compare.run_result.TABLE_BYTES", 100)
    with pytest.raises(InputError, match="more than the 100 bytes that it may have"):
        read_run(comparison / "runs" / "simple_vit__0")


@pytest.mark.parametrize("text", ["1,nan\n", "1,2\n", "1," + "x" * 200_000 + "\n", "\xff\n"])
def test_the_progress_of_a_damaged_table_is_0(text, tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,progress\n" + text, encoding="latin-1")
    assert RunFolder(tmp_path).progress() == 0


@pytest.mark.parametrize("text", ["inf", "nan", "0", ""])
def test_numbers_of_patches_that_cannot_be_followed_are_one_line(text, run):
    (run / "steps.csv").write_text(f"n_selected\n{text}\n1\n")
    with pytest.raises(InputError, match="expected n_selected of each step"):
        RunFolder(run).read_steps()


def test_pipes_in_a_run_block_nothing(run):
    for name in ("metrics.csv", "log.txt"):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)
    assert RunFolder(run).progress() == 0
    assert how_it_failed(2, run / "log.txt") == "exit status 2"


# Reports


@pytest.mark.parametrize("name", ["plots", "report.md", "report.html"])
def test_what_is_in_the_place_of_a_report_is_named(name, comparison, capsys):
    path = comparison / name
    if name == "plots":
        path.write_text("mine")
    else:
        path.mkdir()
    assert f"{path}: remove it" in refused(capsys, "report", str(comparison))
    assert path.exists()


def test_a_pipe_as_a_readme_is_refused(comparison, tmp_path, capsys):
    os.mkfifo(tmp_path / "README.md")
    line = refused(capsys, "report", str(comparison), "--readme", str(tmp_path / "README.md"))
    assert "a named pipe" in line


# Agents


def rewritten(path, members):
    """An agent's file with other members."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in {**content, **members}.items():
            archive.writestr(name, value)
    return path


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", [CARD, "policy.pth", "data"])
def test_an_agents_file_that_unpacks_to_very_much_is_refused(name, run):
    path = rewritten(run / "agent.zip", {name: bytes(80_000_000)})
    with pytest.raises(ArgumentError, match=r"that unpacks to 8[\d.]+ MB, more than 64 MB"):
        read_card(path)
    with pytest.raises(InputError, match=r"that unpacks to 8[\d.]+ MB, more than 64 MB"):
        MultiOutputDQN.load(path)


def test_a_card_of_more_than_a_megabyte_is_refused(run):
    path = rewritten(run / "agent.zip", {CARD: b" " * 2_000_000})
    with pytest.raises(ArgumentError, match=r"a vit_patch_env\.json of more than 1 MB"):
        read_card(path)


@pytest.mark.long
@pytest.mark.parametrize(
    "value", [{"n_patches": 16}, [], None, {"agent": 3, "n_patches": 16}, {"agent": "paper"}]
)
def test_a_card_of_other_types_is_one_line(value, run):
    path = rewritten(run / "agent.zip", {CARD: json.dumps(value)})
    with pytest.raises(ArgumentError, match="must be a file that vit-patch pretrain wrote"):
        read_card(path)


def test_a_pipe_is_no_agent(tmp_path):
    os.mkfifo(tmp_path / "agent.zip")
    with pytest.raises(ArgumentError, match="got: a named pipe"):
        read_card(tmp_path / "agent.zip")
    with pytest.raises(InputError, match="got: a named pipe"):
        MultiOutputDQN.load(tmp_path / "agent.zip")


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("policy.pth", saved({"weights": "none"})),
        ("policy.pth", saved([1, 2])),
        ("policy.pth", b"no tensors"),
        ("policy.optimizer.pth", saved({"state": {}, "param_groups": [{"lr": "fast"}]})),
        ("nothing.pth", saved({})),
        ("__class__.pth", saved({})),
    ],
)
def test_an_agent_of_the_wrong_types_is_one_line(name, value, run):
    path = rewritten(run / "agent.zip", {name: value})
    options = TrainOptions(agent=str(path), env=EnvConfig(**TINY))
    with pytest.raises(InputError, match=rf"^agent {path} cannot be loaded: [^\n]+$"):
        make_agent(options, ViTPatchSelectEnv(**TINY))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dqn": DQNOptions(buffer_size=10**13)}, r"^dqn.buffer_size must fit into .*, got 10{13}"),
        (
            {"agent": "dqn", "actions": "count", "sb3": ("buffer_size=10000000000000",)},
            r"^sb3 must be values with which dqn fits into memory, got buffer_size=10{13}",
        ),
        (
            {"agent": "dqn", "actions": "count", "sb3": ("buffer_size=1" + "0" * 30,)},
            r"^sb3 values are refused by dqn, got: ",
        ),
        ({"dqn": DQNOptions(buffer_size=10**30)}, r"^dqn.buffer_size must fit into memory"),
    ],
)  # fmt: skip
def test_a_buffer_beyond_the_memory_is_one_line_that_names_the_option(options, message):
    with pytest.raises(ArgumentError, match=message):
        make_agent(TrainOptions(env=EnvConfig(**TINY), **options), ViTPatchSelectEnv(**TINY))


# Checkpoints


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return stopped_twice(tmp_path_factory.mktemp("stopped"))


@pytest.fixture
def checkpoints(stopped, tmp_path):
    return CheckpointFolder(Path(shutil.copytree(stopped, tmp_path / "checkpoints")))


@pytest.mark.long
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_skipped_for_an_older_checkpoint(make, checkpoints):
    newest, older = checkpoints.files
    newest.unlink()
    make(newest)
    with pytest.warns(UserWarning, match=r"using an older checkpoint|cannot be removed") as caught:
        _, _, resumed = learn(new_agent("random")[0], checkpoints.path, resume=True)
    assert resumed.resumed_steps == int(older.stem[-3:])
    said = [str(one.message) for one in caught]
    kind = "a named pipe" if make is os.mkfifo else "a folder"
    assert f"using an older checkpoint: expected a saved state in {newest}, got: {kind}" in said[0]
    if make is os.mkdir:
        assert any(f"{newest} cannot be removed: Is a directory" in one for one in said)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.update(n_steps="9"), "got step '9'"),
        (lambda state: state.update(n_steps=3), "got step 3"),
        (lambda state: state.update(n_calls=-1), "got n_calls -1"),
        (lambda state: state.update(agent=None), "got agent None"),
        (lambda state: state.pop("generators"), "got generators"),
        (lambda state: state.update(agent=("object", "builtins.int", None, {})), "a builtins.int"),
        (lambda state: state.update(agent=("array", 1, 2)), "got: "),
        (lambda state: state.update(transitions=("items", "list", [("dict", [])])), "got: "),
        (lambda state: state.update(environments=[]), r"got: zip\(\)"),
        (lambda state: state.update(generators=("dict", [])), "got: 'python'"),
        (lambda state: state.update(run_config=torch.zeros(3)), "got one of another"),
        (lambda state: state.update(callback=7), "got: "),
    ],
)  # fmt: skip
def test_a_checkpoint_of_the_wrong_types_is_one_line_that_names_it(change, problem, checkpoints):
    newest, _ = checkpoints.files
    state = load_state(newest)
    change(state)
    save_state(newest, state)  # with a valid checksum
    with pytest.raises(InputError, match=rf"in {newest}, [^\n]*({problem})") as caught:
        learn(new_agent("random")[0], checkpoints.path, resume=True)
    assert "\n" not in str(caught.value)
    assert len(checkpoints.files) == 2


@pytest.mark.long
def test_errors_of_an_algorithm_with_hostile_transitions_are_one_line_of_the_command(
    tmp_path, capsys
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vit_patch_env.experiments.checkpoints.callback.LONG_ROLLOUT_SECONDS", 0.0)
        agent = new_agent("paper")[0]
        learn(agent, tmp_path, stop_at=9)
    (path,) = CheckpointFolder(tmp_path).files
    state = load_state(path)
    assert state["transitions"][2]
    observations = ("array", torch.zeros(7, 3), False)
    for transition in state["transitions"][2]:
        transition[2][0] = observations
    save_state(path, state)
    checkpoint = RunCheckpoint(tmp_path, every="never", resume=True)
    with pytest.raises(Exception) as caught:  # noqa: PT011  (of the algorithm)
        new_agent("paper")[0].learn(21, callback=checkpoint)
    assert checkpoint.restoring
    assert str(checkpoint.restoring_error(caught.value)).startswith(
        f"expected a run's checkpoint in {path}, got: "
    )


@pytest.mark.long
def test_a_finished_run_whose_checkpoint_cannot_be_removed_is_finished(
    tmp_path, monkeypatch, capsys
):
    out, unlink = tmp_path / "run", Path.unlink

    def refuse(path, missing_ok=False):
        if path.suffix == ".ckpt":
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    words = ["train", *TINY_OPTIONS, "--epochs", "1", "--agent", "random", "--out", str(out)]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        main([*words, "--checkpoint-every", "2"])
        assert ".ckpt cannot be removed: Operation not permitted" in capsys.readouterr().err
        assert RunFolder(out).is_finished
        with pytest.raises(SystemExit):
            main([*words, "--overwrite"])
    assert "expected a folder without checkpoints, got" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize(
    "change", [{"losses": 3}, {"run": None}, {"values": "x"}, {"shown": (1, 2, 3)}]
)
def test_an_environments_state_of_the_wrong_types_is_one_line(change, tmp_path):
    env = ViTPatchSelectEnv(**TINY)
    env.reset(seed=0)
    env.save(tmp_path / "state")
    state = load_state(tmp_path / "state")
    state["episode"] |= change
    save_state(tmp_path / "state", state)
    with pytest.raises(
        InputError, match=r"^expected the state of a run with this ViT, got: [^\n]+$"
    ):
        env.load(tmp_path / "state")


# The cache


def opened(folder, shape):
    store = Store(folder, shape)
    with store.locked():
        store.load()
    return store


def filled(folder, shape):
    store = opened(folder, shape)
    (row,) = store.rows([b"key"])
    store.put(row, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    store.save()
    return store


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 6, 3), (3, 3, 6), (4, 6, 6)])
def test_a_cache_of_images_of_another_shape_is_not_read(shape, tmp_path):
    filled(tmp_path / "store", shape)
    assert not opened(tmp_path / "store", (3, 6, 6)).keys
    assert opened(tmp_path / "store", shape).keys == {b"key"}


def test_rows_that_no_image_of_the_shape_has_are_decoded_again(tmp_path):
    store = filled(tmp_path / "store", (3, 6, 6))
    for field, value in (
        ("state", 9), ("sum", [-1, 0, 0, 0]), ("sum", [1, 1, 1, 1]), ("sum", [10**6, 0, 0, 0]),
        ("sum_of_squares", [10**9, 0, 0, 0]), ("state", GREY),
    ):  # fmt: skip
        record = store._index[0].copy()
        store._index[field][0] = value
        store.save()
        assert opened(tmp_path / "store", (3, 6, 6)).states(np.array([0])).tolist() == [EMPTY]
        store._index[0] = record
    store.save()
    assert opened(tmp_path / "store", (3, 6, 6)).states(np.array([0])).tolist() == [DECODED]


def test_a_row_that_is_said_to_be_grey_and_is_not_is_damaged(tmp_path):
    store = filled(tmp_path / "store", (3, 6, 6))
    store._index["state"][0] = GREY
    for sums in ("sum", "sum_of_squares"):
        store._index[sums][0, :3] = store._index[sums][0, 0]
    store.save()
    again = opened(tmp_path / "store", (3, 6, 6))
    assert again.states(np.array([0])).tolist() == [GREY]
    assert again.read(np.array([0]))[1] == [0]


@pytest.mark.parametrize("name", ["index", "about", "pixels"])
def test_pipes_in_the_cache_block_nothing(name, tmp_path):
    filled(tmp_path / "store", (3, 6, 6))
    (tmp_path / "store" / name).unlink()
    os.mkfifo(tmp_path / "store" / name)
    if name == "index":
        assert not opened(tmp_path / "store", (3, 6, 6)).keys
    else:  # then another folder is used
        with pytest.raises(OSError, match="expected a regular file"):
            Store(tmp_path / "store", (3, 6, 6))


def test_a_pipe_as_a_kept_kernel_is_not_loaded(tmp_path):
    os.mkfifo(tmp_path / "kernel.so", mode=0o600)
    assert build._kept(tmp_path / "kernel.so", torch.float32) is None
