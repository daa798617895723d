"""Runs in Weights & Biases and MLflow, with their own packages, offline."""

import json
import warnings

import pytest
from stable_baselines3.common.logger import Image, Logger

from tests.conftest import TINY_OPTIONS
from tests.test_cli import refused
from tests.test_resume import stopped, train
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.runs import tracking
from vit_patch_env.experiments.runs.tracking import Tracker, numbers


class Recorder(Tracker):
    """A tracker that keeps what it gets, until it fails."""

    name = "wandb"

    def __init__(self):
        super().__init__()
        self.points, self.summary, self.fails = [], None, False

    def _log(self, values, pictures, step):
        if self.fails:
            raise ConnectionError("no\nroute")
        self.points.append((step, values, sorted(pictures)))

    def _finish(self, values):
        self._log({}, {}, 0)
        self.summary = values


def test_numbers_and_images_of_a_logger_are_written():
    tracker = Recorder()
    logger = Logger(None, [tracker])
    logger.record("vit/train_loss", 0.5)
    logger.record("env/n_selected", 3)
    logger.record("vit/attention", Image([[[0, 0, 0]]], "HWC"))
    logger.record("words", "none")
    logger.dump(7)
    assert tracker.points == [(7, {"vit/train_loss": 0.5, "env/n_selected": 3}, ["vit/attention"])]


def test_the_summary_has_the_numbers_within_a_result():
    result = {"test": {"all_patches": {"f1": 0.5}}, "diverged": False, "classes": ["a"], "x": None}
    assert dict(numbers(result)) == {"test/all_patches/f1": 0.5, "diverged": 0}


def test_a_tracker_that_fails_is_a_warning_and_is_tried_again():
    tracker = Recorder()
    tracker.fails = True
    with pytest.warns(UserWarning, match="points cannot be written to wandb: no route; the run"):
        tracker.write({"a": 1}, {"a": ()}, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.write({"a": 1}, {"a": ()}, 2)  # not tried yet
    with pytest.warns(UserWarning, match="the run's end cannot be written to wandb: no route"):
        tracker.finish({})
    tracker.fails, tracker._retry_at = False, 0.0
    tracker.write({"a": 1}, {"a": ()}, 3)
    assert [step for step, *_ in tracker.points] == [3]


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_a_missing_tracker_is_named_before_anything_is_loaded(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    out = tmp_path / "run"
    message = refused(capsys, "train", *TINY_OPTIONS, "--track", name, "--out", str(out))
    assert f"{name} needs the extra {name}, pip install 'vit-patch-env[{name}]'" in message
    assert not out.exists()


class Started(Recorder):
    """A tracker that is remembered."""

    name, place = "wandb", "nowhere"

    def __init__(self, title, config, run_id=None):
        super().__init__()
        self.run_id = run_id or "first"
        STARTED.append(self)


class Refusing(Started):
    """A tracker without a login."""

    name = "mlflow"

    def __init__(self, title, config, run_id=None):
        raise PermissionError("no login")


STARTED: list[Started] = []


@pytest.fixture
def refusing(monkeypatch):
    """One tracker that starts, and a second one that refuses to; those that were started."""
    monkeypatch.setattr(tracking, "TRACKERS", {"wandb": Started, "mlflow": Refusing})
    monkeypatch.setattr(tracking, "require_extra", lambda *names: None)
    STARTED.clear()
    return STARTED


def test_a_tracker_that_refuses_leaves_no_run(refusing, tmp_path, capsys):
    out = tmp_path / "runs" / "new"
    words = ["train", *TINY_OPTIONS, "--agent", "random", "--track", "wandb", "mlflow"]
    message = refused(capsys, *words, "--out", str(out))
    assert "--track must be trackers that can be written to, got mlflow: no login" in message
    assert not out.exists()
    out.mkdir()
    refused(capsys, *words, "--out", str(out))
    assert [file.name for file in out.iterdir()] in ([], [".lock"])
    assert [one.points for one in refusing] == [[(0, {}, [])]] * 2  # ended


def written(folder):
    """When each file was written."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {file: file.stat().st_mtime_ns for file in files}


@pytest.mark.long
def test_a_tracker_that_refuses_leaves_an_earlier_run_as_it_was(refusing, tmp_path, capsys):
    out = tmp_path / "run"
    train(out, "--agent", "random", "--epochs", "1", "--track", "wandb", "--checkpoint-every", "3")
    before = written(out)
    for words in (
        ["--out", str(out), "--overwrite", *TINY_OPTIONS, "--agent", "random"],
        ["--resume", str(out), "--epochs", "2"],
    ):
        refused(capsys, "train", *words, "--track", "wandb", "mlflow")
        assert written(out) == before


@pytest.mark.long
def test_an_overwritten_run_is_another_one_in_its_tracker(refusing, tmp_path):
    out = tmp_path / "run"
    train(out, "--agent", "random", "--epochs", "1", "--track", "wandb")
    (out / "tracked.json").write_text('{"wandb": "second", "mlflow": "third"}')
    train(out, "--agent", "random", "--epochs", "1", "--track", "wandb", "--overwrite")
    assert [one.run_id for one in refusing] == ["first", "first"]
    assert json.loads((out / "tracked.json").read_text()) == {"wandb": "first"}


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """MLflow's client of a folder."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "patches")
    return mlflow.MlflowClient((tmp_path / "mlruns").as_uri())


def test_a_resumed_run_continues_in_mlflow(mlflow, tmp_path):
    out = stopped(tmp_path / "run", "--agent", "random", "--log-interval", "1", "--track", "mlflow")
    run_id = json.loads((out / "tracked.json").read_text())["mlflow"]
    assert mlflow.get_run(run_id).info.status == "KILLED"
    main(["train", "--resume", str(out)])
    [run] = mlflow.search_runs([mlflow.get_experiment_by_name("patches").experiment_id])
    assert run.info.run_id == run_id
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["agent"] == "random"
    assert run.data.params["epochs"] == "3"
    result = json.loads((out / "result.json").read_text())
    assert (
        run.data.metrics["test/all_patches/accuracy"] == result["test"]["all_patches"]["accuracy"]
    )
    steps = [point.step for point in mlflow.get_metric_history(run_id, "vit/train_loss")]
    assert steps == list(range(1, 22))
    assert any("vit~attention" in one.path for one in mlflow.list_artifacts(run_id, "images"))


def test_a_run_that_mlflow_does_not_know_is_refused(mlflow, tmp_path, capsys):
    out = stopped(tmp_path / "run", "--agent", "random")
    (out / "tracked.json").write_text(json.dumps({"mlflow": "0" * 32}))
    capsys.readouterr()
    message = refused(capsys, "train", "--resume", str(out), "--track", "mlflow")
    assert "--track must be trackers that can be written to, got mlflow with the run 000" in message


def test_a_resumed_run_continues_in_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    runs, finish = [], wandb.Run.finish

    def recorded(run, **arguments):
        runs.append((run.id, run.name, dict(run.config), dict(run.summary)))
        finish(run, **arguments)

    monkeypatch.setattr(wandb.Run, "finish", recorded)
    out = stopped(tmp_path / "run", "--agent", "random", "--track", "wandb")
    main(["train", "--resume", str(out)])
    [(first, *_), (second, name, config, summary)] = runs
    assert first == second == json.loads((out / "tracked.json").read_text())["wandb"]
    assert name == "run"
    assert config["agent"] == "random"
    result = json.loads((out / "result.json").read_text())
    assert summary["test/all_patches/f1"] == result["test"]["all_patches"]["f1"]
    assert summary["step"] == 21
    wandb.teardown()


def test_a_run_is_replaced_in_its_folder_but_not_in_its_tracker(mlflow, tmp_path):
    out = tmp_path / "run"
    for options in ((), ("--overwrite",)):
        train(out, "--agent", "random", "--epochs", "1", "--track", "mlflow", *options)
    experiment = mlflow.get_experiment_by_name("patches").experiment_id
    assert len(mlflow.search_runs([experiment])) == 2
