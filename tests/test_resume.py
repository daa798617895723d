"""`vit-patch train --resume`: what an interrupted run is resumed with, and what is refused."""

import json
import os
import pickle
import shutil
import signal
import warnings
import zipfile
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import TINY_OPTIONS
from tests.faults.runs import newest_step, trajectory
from tests.test_cli import refused
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.run_folder.folder import RunFolder, checksum, lock_folder
from vit_patch_env.experiments.run_folder.tables import RunTables
from vit_patch_env.experiments.runs import train as training
from vit_patch_env.experiments.runs.train import Run
from vit_patch_env.models.kernels import build


def train(out, *args):
    main(["train", *TINY_OPTIONS, "--epochs", "3", "--out", str(out), *args])


def stopped(out, *args, number=signal.SIGTERM):
    """A run that was stopped after its first epoch."""
    end_epoch = Run._end_epoch

    def signalled(run, figures):
        end_epoch(run, figures)
        if figures.epoch == 1:
            signal.raise_signal(number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "_end_epoch", signalled)
            with pytest.raises(SystemExit) as stop:
                train(out, *args)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.code == 128 + number
    return out


@pytest.fixture(scope="module")
def random_runs(tmp_path_factory):
    """A run of random patches stopped after an epoch, and an uninterrupted one's trajectory."""
    root = tmp_path_factory.mktemp("random")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        train(root / "whole", "--agent", "random")
        return stopped(root / "run", "--agent", "random"), trajectory(root / "whole")


@pytest.fixture
def broken(random_runs, tmp_path):
    """The stopped run's folder, to be resumed."""
    return Path(shutil.copytree(random_runs[0], tmp_path / "run"))


@pytest.fixture
def expected(random_runs):
    """The trajectory of the run that was not interrupted."""
    return random_runs[1]


@pytest.fixture
def in_one_line():
    """Warnings are shown, as on the command line, and are not errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


def test_a_stopped_run_prints_how_to_resume(tmp_path, capsys):
    out = stopped(tmp_path / "run", "--agent", "random", number=signal.SIGINT)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "vit-patch: stopping after a checkpoint; a second signal ends it at once"
    step = newest_step(out)
    assert (
        said[1] == f"vit-patch: stopped at step {step}; resume with: vit-patch train --resume {out}"
    )
    assert not (out / "result.json").exists()
    # TensorBoard shows each step once, though the broken-off process was further on.
    main(["train", "--resume", str(out)])
    assert f"resumed at step {step}" in capsys.readouterr().out
    train(tmp_path / "unbroken", "--agent", "random")
    assert trajectory(out) == trajectory(tmp_path / "unbroken")
    assert len(list((out / "checkpoints").iterdir())) == 1  # to extend it
    points = []
    for run in (out, tmp_path / "unbroken"):
        events = EventAccumulator(str(run))
        events.Reload()
        points.append(
            {tag: [(point.step, point.value) for point in events.Scalars(tag)]
             for tag in ("vit/train_loss", "vit/val_accuracy", "env/reward_loss")}
        )  # fmt: skip
    assert points[0] == points[1]


@pytest.mark.long
def test_a_run_without_a_checkpoint_starts_from_the_beginning(broken, expected, capsys):
    for path in (broken / "checkpoints").iterdir():
        path.unlink()
    main(["train", "--resume", str(broken)])
    assert "from the start, as there is no checkpoint" in capsys.readouterr().out
    assert trajectory(broken) == expected


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dim", "32"], "--dim must be that of the resumed run, 16, got 32"),
        (["--agent", "ppo"], "--agent must be that of the resumed run, random, got ppo"),
        (
            ["--dqn.tau", "0.5"],
            "--dqn.tau must be that of the resumed run, 0.1, got 0.5",
        ),
        (["--out", "elsewhere"], "out must be the folder of the resumed run"),
        (["--checkpoint-every", "5h"], "--checkpoint-every must be a number of steps"),
        (["--checkpoints-kept", "0"], "--checkpoints-kept must be in [1, 10^9], got 0"),
    ],
)
def test_other_options_are_refused(broken, args, message, capsys):
    assert message in refused(capsys, "train", "--resume", str(broken), *args)


def test_options_that_do_not_affect_results_may_change(broken, capsys):
    words = ["--checkpoint-every", "3", "--checkpoints-kept", "1", "--device", "cpu"]
    main(["train", "--resume", str(broken), *words, "--log-interval", "5"])
    assert (broken / "result.json").exists()


@pytest.mark.long
def test_a_folder_of_images_may_have_moved(make_folder, tmp_path, capsys):
    images = make_folder(n_images=60, splits=("train",))
    words = ["--dataset", "folder", "--data-dir", str(images), "--batch-size", "16"]
    out = stopped(tmp_path / "run", *words, "--agent", "random")
    moved = images.rename(tmp_path / "moved")
    capsys.readouterr()
    assert "no such folder" in refused(capsys, "train", "--resume", str(out))
    main(["train", "--resume", str(out), "--data-dir", str(moved)])


def test_a_finished_run_and_a_folder_without_one_are_refused(tmp_path, capsys):
    line = refused(capsys, "train", "--resume", str(tmp_path / "nowhere"))
    assert "must be the folder of a run, got" in line
    train(tmp_path / "run", "--agent", "random")
    line = refused(capsys, "train", "--resume", str(tmp_path / "run"))
    assert f"see its metrics with vit-patch evaluate {tmp_path / 'run'}" in line


def test_a_new_run_in_an_unfinished_runs_folder_is_refused_with_a_hint(broken, capsys):
    line = refused(capsys, "train", *TINY_OPTIONS, "--out", str(broken))
    assert f"resume it (--resume {broken}), or add --overwrite" in line
    train(broken, "--overwrite", "--agent", "all")
    assert not (broken / "checkpoints").exists()
    assert RunFolder(broken).options.agent == "all"


def test_a_changed_configuration_is_detected(broken, capsys):
    path = broken / "config.json"
    config = json.loads(path.read_text())
    config["options"]["env"]["learning_rate"] = 0.5
    path.write_text(json.dumps(config))
    line = refused(capsys, "train", "--resume", str(broken))
    assert "got one of another: --learning-rate 0.001 instead of 0.5" in line


def test_damaged_checkpoints_are_refused_in_one_line(broken, capsys):
    (path,) = (broken / "checkpoints").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    line = refused(capsys, "train", "--resume", str(broken))
    assert f"no checkpoint in {broken / 'checkpoints'} is intact" in line
    assert RunFolder(broken).lock().is_locked  # which was given back


@pytest.mark.long
def test_an_older_checkpoint_is_taken_with_a_warning(broken, expected, capsys, in_one_line):
    (newest,) = (broken / "checkpoints").iterdir()
    (broken / "checkpoints" / "step-000000000999.ckpt").write_bytes(newest.read_bytes()[:1000])
    main(["train", "--resume", str(broken)])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vit-patch: warning: using an older checkpoint: expected an intact")
    assert trajectory(broken) == expected


def test_a_second_process_in_a_runs_folder_is_refused(broken, capsys):
    message = f"out must be a folder that no other process is using, got {broken}"
    with RunFolder(broken).lock():
        assert message in refused(capsys, "train", "--resume", str(broken))
        words = ["train", *TINY_OPTIONS, "--overwrite", "--out", str(broken)]
        assert message in refused(capsys, *words)
    main(["train", "--resume", str(broken)])


def test_a_second_comparison_in_a_folder_is_refused(tmp_path, capsys):
    with lock_folder(tmp_path, "out"):
        words = ["compare", *TINY_OPTIONS, "--methods", "simple_vit", "--out", str(tmp_path)]
        assert "no other process is using" in refused(capsys, *words)


def test_nothing_is_written_through_links(tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    out = tmp_path / "run"
    out.mkdir()
    for name in ("config.json", "metrics.csv", "vit.safetensors", "agent.zip", "result.json"):
        (out / name).symlink_to(outside / "mine")
    train(out, "--agent", "random", "--overwrite")
    assert (outside / "mine").read_text() == "mine"
    assert (out / "result.json").is_file()
    (out / "checkpoints").symlink_to(outside)
    assert "got the link" in refused(
        capsys, "train", *TINY_OPTIONS, "--overwrite", "--out", str(out)
    )
    compared = tmp_path / "compared"
    (compared / "runs").mkdir(parents=True)
    (compared / "runs" / "simple_vit__0").symlink_to(outside)
    words = ["compare", *TINY_OPTIONS, "--methods", "simple_vit", "--seeds", "0", "--out"]
    assert "got the link" in refused(capsys, *words, str(compared))
    assert [path.name for path in outside.iterdir()] == ["mine"]


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_evaluation_executes_no_code_from_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    train(out, "--agent", "ppo", "--epochs", "1")
    # Stable-Baselines3's archive with a pickle of its own, as somebody else might pass it on.
    with zipfile.ZipFile(out / "agent.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(content["data"])
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = __import__("base64").b64encode(pickle.dumps(Attack())).decode()
    content["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(out / "agent.zip", "w") as archive:
        for name, part in content.items():
            archive.writestr(name, part)
    assert "damaged: agent.zip differs from its checksum in result.json" in refused(
        capsys, "evaluate", str(out)
    )
    result = json.loads((out / "result.json").read_text())
    result["files"]["agent.zip"] = checksum(out / "agent.zip")
    (out / "result.json").write_text(json.dumps(result))
    main(["evaluate", str(out)])
    assert not (tmp_path / "attacked").exists()


@pytest.mark.long
def test_writing_results_is_retried_if_the_disk_is_full(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vit_patch_env.experiments.runs.train.RETRY_SECONDS", 0.0)
    write, fails = RunFolder.write_result, [True, True, False]

    def unreliable(folder, result):
        if fails.pop(0):
            raise OSError(28, "No space left on device")
        write(folder, result)

    monkeypatch.setattr(RunFolder, "write_result", unreliable)
    train(tmp_path / "run", "--agent", "random")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "No space left on device: writing the results is retried" in said[0]
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.long
def test_results_that_cannot_be_written_leave_the_checkpoint(
    tmp_path, expected, monkeypatch, capsys
):
    monkeypatch.setattr("vit_patch_env.experiments.runs.train.RETRY_SECONDS", 0.0)

    def full(folder, result):
        raise OSError(28, "No space left on device")

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_result", full)
        with pytest.raises(SystemExit) as stop:
            train(out, "--agent", "random", "--checkpoint-every", "4")
    assert stop.value.code == 2
    assert (
        f"once there is space, resume with: vit-patch train --resume {out}"
        in capsys.readouterr().err
    )
    main(["train", "--resume", str(out)])
    assert trajectory(out) == expected


@pytest.mark.long
def test_a_signal_ends_the_wait_for_disk_space(tmp_path, monkeypatch, capsys):
    def full(folder, result):
        signal.raise_signal(signal.SIGTERM)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "write_result", full)
    with pytest.raises(SystemExit) as stop:
        train(tmp_path / "run", "--agent", "random")
    assert stop.value.code == 128 + signal.SIGTERM
    assert "stopped without results; resume with: " in capsys.readouterr().err


class Broken:
    """A pipe without a reader, or a file on a full disk."""

    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error

    def isatty(self):
        return False


@pytest.mark.long
@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device")])
def test_a_run_survives_its_output(error, tmp_path, expected, monkeypatch):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}", Broken(error))
    train(tmp_path / "run", "--agent", "random")
    assert trajectory(tmp_path / "run") == expected
    assert newest_step(stopped(tmp_path / "other", "--agent", "random")) > 0


def test_a_run_that_was_finished_meanwhile_is_not_changed(broken, monkeypatch, capsys):
    make_env = training.make_env

    def slow(options):
        (broken / "result.json").write_text("{}")  # as another process may
        return make_env(options)

    monkeypatch.setattr(training, "make_env", slow)
    line = refused(capsys, "train", "--resume", str(broken))
    assert "--resume must be an unfinished run" in line
    assert newest_step(broken) > 0


@pytest.mark.long
def test_a_folder_of_other_images_is_refused(make_folder, tmp_path, capsys):
    images = make_folder(n_images=60, splits=("train",))
    words = ["--dataset", "folder", "--data-dir", str(images), "--batch-size", "16"]
    out = stopped(tmp_path / "run", *words, "--agent", "random")
    other = make_folder(name="other", n_images=70, splits=("train",))
    capsys.readouterr()
    line = refused(capsys, "train", "--resume", str(out), "--data-dir", str(other))
    assert "got one of another: train 86 instead of 100" in line


def test_a_run_of_an_older_version_is_evaluated_with_a_warning(tmp_path, in_one_line, capsys):
    train(tmp_path / "run", "--agent", "random", "--epochs", "1")
    path = tmp_path / "run" / "result.json"
    result = json.loads(path.read_text())
    for name in ("vit.safetensors", "agent.zip"):
        del result["files"][name]
    path.write_text(json.dumps(result))
    main(["evaluate", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert "is of an older version, without a checksum of vit.safetensors" in said


@pytest.mark.long
def test_tables_that_cannot_be_written_are_written_after_the_next_epoch(
    tmp_path, expected, monkeypatch, capsys, in_one_line
):
    write, fails = RunTables.write, [True, False, False, False]

    def unreliable(tables):
        if fails.pop(0):
            raise OSError(28, "No space left on device")
        write(tables)

    monkeypatch.setattr(RunTables, "write", unreliable)
    train(tmp_path / "run", "--agent", "random")
    monkeypatch.setattr(RunTables, "write", write)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vit-patch: warning: the tables of ")
    assert "cannot be written: No space left on device" in line
    assert trajectory(tmp_path / "run") == expected


@pytest.fixture
def other_attention(own_cache, monkeypatch):
    """Switches between processes with and without a compiler, which this one stands for."""

    def switch(works):
        shutil.rmtree(own_cache / "kernels", ignore_errors=True)
        monkeypatch.setenv("CC", "cc" if works else "false")
        build._built.cache_clear()
        build.enable(True)

    yield switch
    build._built.cache_clear()
    build.enable(True)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.usefixtures("in_one_line")
def test_a_resumed_run_computes_attention_as_it_began(tmp_path, other_attention, capsys):
    kernel_fits = ("--agent", "random", "--dim-head", "16")
    train(tmp_path / "compiled", *kernel_fits)
    other_attention(False)
    train(tmp_path / "general", *kernel_fits)
    assert trajectory(tmp_path / "compiled") != trajectory(tmp_path / "general")
    stopped(tmp_path / "run", *kernel_fits)
    other_attention(True)
    main(["train", "--resume", str(tmp_path / "run")])
    assert trajectory(tmp_path / "run") == trajectory(tmp_path / "general")
    other_attention(True)
    stopped(tmp_path / "other", *kernel_fits)
    other_attention(False)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["train", "--resume", str(tmp_path / "other")])
    assert stop.value.code == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert "could not compile the kernel" in warning
    assert error.startswith("vit-patch: expected a C compiler, as the run in ")
    other_attention(True)
    main(["train", "--resume", str(tmp_path / "other")])
    assert trajectory(tmp_path / "other") == trajectory(tmp_path / "compiled")
