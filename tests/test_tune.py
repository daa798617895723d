"""`vit-patch tune`: a study that several processes work on and that survives interruptions."""

import csv
import json
import math
import os
import shlex
import signal
import sqlite3

import pandas as pd
import pytest
from rich.console import Console

from tests.conftest import TINY_OPTIONS
from tests.test_cli import refused
from vit_patch_env.episode import Episode
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.tune import trials as trials_module
from vit_patch_env.experiments.tune.space import Dimension
from vit_patch_env.experiments.tune.trial_run import RunOutcome, train_and_validate
from vit_patch_env.experiments.tune.tuning import Tuning

pytest.importorskip("optuna")
import optuna

from vit_patch_env.experiments.tune.study import TuningStudy
from vit_patch_env.experiments.tune.summary import best_command

FEW = ["--search", "dqn.gamma", "alpha"]
ARGS = [*TINY_OPTIONS, *FEW, "--trials", "2", "--seeds", "1", "2", "--budget", "flops",
        "--epochs", "1"]  # fmt: skip
DIMENSIONS = [
    Dimension("alpha", 0.2, False, 0.0, 1.0),
    Dimension("dqn.batch_size", 64, False, 16, 256, integer=True, log=True),
    Dimension("dqn.exploration_decay_steps", None, False, 1.0, 28.0, log=True),
]


def tune(out, *args):
    main(["tune", *TINY_OPTIONS, *FEW, "--out", str(out), *args])
    return trials(out)


def trials(out):
    """The rows of trials.csv by the number of the trial, without times."""
    table = pd.read_csv(out / "trials.csv").drop(columns="seconds")
    return table[table["state"] != "interrupted"].set_index("number").sort_index()


def study(path, n_trials=20, **changes):
    path.mkdir(exist_ok=True)
    values = {"n_trials": n_trials, "seed": 0, "pruner": "median", "n_points": 2, **changes}
    return TuningStudy(path, DIMENSIONS, **values)


def fake_run(accuracy):
    """What replaces training: the accuracy as a function of the options."""

    def run(options, data, *, on_step, on_point):
        on_step()
        on_point(1, accuracy(options) / 2)
        on_point(2, accuracy(options))
        return RunOutcome(accuracy(options), 8.0)

    return run


@pytest.fixture
def instant(monkeypatch):
    """Runs that take no time: the best alpha is 0.7."""
    accuracy = fake_run(lambda options: 1 - abs(options.env.alpha - 0.7))
    monkeypatch.setattr(trials_module, "train_and_validate", accuracy)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a study, and its output."""
    out = tmp_path_factory.mktemp("tune") / "a study?%20#ü"
    with pytest.MonkeyPatch.context() as patch:
        evaluate = Episode.evaluate

        def without_test_images(self, split, *args, **kwargs):
            assert split == "val"
            return evaluate(self, split, *args, **kwargs)

        patch.setattr(Episode, "evaluate", without_test_images)
        main(["tune", *ARGS, "--out", str(out)])
    return out


def test_a_study_writes_its_trials_and_the_best(finished):
    table = trials(finished)
    assert list(table["state"]) == ["done"] * 2
    assert (table["alpha"][0], table["dqn.gamma"][0]) == (0.2, 0.95)  # as given
    assert table["alpha"].nunique() == table["dqn.gamma"].nunique() == 2
    best = json.loads((finished / "best.json").read_text())
    assert best["val_accuracy"] == table["accuracy"].max()
    assert best["first_trial_val_accuracy"] == table["accuracy"][0]
    assert best["values"]["alpha"] == table["alpha"][best["trial"]]
    assert best["seeds"] == [1, 2]
    assert best["made_by"]["versions"]["optuna"]


@pytest.mark.long
def test_the_command_of_a_trial_gives_its_accuracy(finished, tmp_path):
    prepared = Tuning(parse(["tune", *ARGS, "--out", str(finished)]), Console(quiet=True))
    prepared.prepare()
    record = prepared.study.records()[1]
    command = shlex.split(best_command(prepared.train_options, record))
    assert command[:2] == ["vit-patch", "train"]
    assert {"--dqn.gamma", "--alpha"} <= set(command)
    assert parse(command[1:]).seed == 1
    accuracies = []
    for seed in (1, 2):
        out = tmp_path / f"run{seed}"
        main([*command[1:], "--seed", str(seed), "--out", str(out)])
        with (out / "metrics.csv").open() as file:
            accuracies.append(float(list(csv.DictReader(file))[-1]["val_accuracy"]))
    assert sum(accuracies) / 2 == record.accuracy


def test_the_result_is_shown(finished, capsys):
    main(["tune", *ARGS, "--out", str(finished)])
    shown = capsys.readouterr().out
    assert "2 trials started before" in shown
    assert "Of 2 done, trial " in shown
    assert "dqn.gamma" in shown
    assert json.loads((finished / "best.json").read_text())["command"] in shown.splitlines()[-1]


def work_on(shared, n_trials):
    """The values that a process tries, of which only alpha matters: the best is 0.7."""
    values = []
    for _ in range(n_trials):
        attempt = shared.next()
        values.append(attempt.values)
        attempt.finish("done", accuracy=1 - abs(attempt.values["alpha"] - 0.7))
    shared.leave()
    return values


@pytest.mark.long
def test_it_finds_better_values_and_what_matters(tmp_path):
    shared = study(tmp_path)
    work_on(shared, 16)
    accuracies = [one.accuracy for one in shared.records()]
    assert accuracies[0] == pytest.approx(0.5)
    assert max(accuracies) > 0.9
    importance = shared.importance()
    assert importance["alpha"] == max(importance.values()) > 0.5


@pytest.mark.long
def test_a_resumed_study_continues_as_if_it_had_not_ended(tmp_path):
    whole = work_on(study(tmp_path / "whole"), 11)
    assert work_on(study(tmp_path / "parts"), 5) == whole[:5]
    assert work_on(study(tmp_path / "parts"), 6) == whole[5:]
    other = work_on(study(tmp_path / "other", seed=1), 2)
    assert other[0] == whole[0]
    assert other[1] != whole[1]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_study_that_resumes(number, instant, tmp_path, capsys, monkeypatch):
    whole = tune(tmp_path / "whole", "--trials", "2")
    run, calls = trials_module.train_and_validate, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            signal.raise_signal(number)
        return run(*args, **kwargs)

    monkeypatch.setattr(trials_module, "train_and_validate", interrupted)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        tune(tmp_path / "study", "--trials", "2")
    assert stop.value.code == 128 + number
    assert capsys.readouterr().err.endswith("stopped; the same command resumes the study\n")
    assert len(trials(tmp_path / "study")) == 1
    assert tune(tmp_path / "study", "--trials", "2").equals(whole)
    assert "interrupted" in (tmp_path / "study" / "trials.csv").read_text()


@pytest.mark.long
def test_a_trial_that_fails_is_a_failed_trial(tmp_path, capsys, monkeypatch):
    def run(options, *args, **kwargs):
        if options.env.alpha != 0.2:
            raise RuntimeError("no\nmemory")
        return RunOutcome(0.5, 8.0)

    monkeypatch.setattr(trials_module, "train_and_validate", run)
    table = tune(tmp_path / "study", "--trials", "3")
    assert list(table["state"]) == ["done", "failed", "failed"]
    assert table["note"][1] == "no memory"
    assert "trial 1 (2/3) failed: no memory\n" in capsys.readouterr().err


@pytest.mark.long
def test_a_database_that_fails_ends_the_study_in_one_line(tmp_path, capsys, monkeypatch):
    def run(options, data, *, on_step, on_point):
        with sqlite3.connect(tmp_path / "study" / "study.db") as database:
            database.execute("DROP TABLE trial_intermediate_values")
        on_point(1, 0.5)

    monkeypatch.setattr(trials_module, "train_and_validate", run)
    with pytest.raises(SystemExit) as stop:
        tune(tmp_path / "study", "--trials", "2")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "expected a study's database, got: " in error
    assert error.endswith("once that is solved, the same command resumes the study\n")
    assert error.count("\n") == 1


@pytest.mark.long
def test_runs_that_diverge_are_failed_trials(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        tune(tmp_path / "study", "--trials", "1", "--learning-rate", "1e30")
    assert stop.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "no trial was done (1 failed): the loss is not finite" in last


@pytest.mark.long
def test_processes_share_a_study(tmp_path):
    workers = [study(tmp_path, n_trials=3) for _ in range(4)]
    attempts = [worker.next() for worker in workers]
    assert [one and one.number for one in attempts] == [0, 1, 2, None]
    attempts[1].finish("interrupted")
    assert workers[3].next().number == 1


@pytest.mark.long
def test_the_trial_of_a_killed_process_is_done_again_once(tmp_path):
    values = []
    for _ in range(2):
        killed = study(tmp_path)
        attempt = killed.next()
        assert attempt.number == 0 or values
        values.append(dict(attempt.values))
        killed.leave()  # as the system does
    assert values[0] == values[1]
    survivor = study(tmp_path)
    assert survivor.next().number == 1
    assert [one.state for one in survivor.records()] == ["interrupted", "failed", "running"]
    assert survivor.records()[1].note == "its process was killed"


def test_a_process_killed_before_its_trial_is_written_leaves_no_gap(tmp_path):
    killed = study(tmp_path)
    killed._study.enqueue_trial({"alpha": 0.5})
    killed._study.ask()
    attempt = study(tmp_path).next()
    assert attempt.number == 0
    assert attempt.values["alpha"] == 0.2
    assert attempt.values["dqn.exploration_decay_steps"] is None  # kept, as it is none to find


@pytest.mark.long
@pytest.mark.parametrize("pruner", ["median", "halving", "none"])
def test_bad_trials_end_early_but_not_the_first(pruner, tmp_path):
    shared = study(tmp_path, pruner=pruner, n_points=3)
    pruned = []
    for number in range(8):
        attempt = shared.next()
        good = 0 < number < 7
        steps = [attempt.report(0.05 * step if good else 0.001, step) for step in range(1, 4)]
        pruned.append(any(steps[:-1]))
        attempt.finish("done", accuracy=0.5 if good else 0.001)
    assert (pruned[0], pruned[7]) == (False, pruner != "none")


ACCURACIES = [0.5, 0.9, 0.3, 0.3, 0.3, 0.8, 0.85, 0.2]
"""Of trials at every point, by number."""


def states_of(path, pruner, interrupted=()):
    """How every trial of a study ends.

    Args:
        path: of its folder.
        pruner: which trials end early.
        interrupted: for each interruption the number of the trial, and how it is interrupted.
    """
    left, states = list(interrupted), {}
    shared = study(path, n_trials=len(ACCURACIES), pruner=pruner)
    while attempt := shared.next():
        number = attempt.number
        if attempt.report(ACCURACIES[number], 1):
            attempt.finish("pruned")
            states[number] = "pruned"
            continue
        how = next((how for one, how in left if one == number), None)
        pruned = attempt.report(ACCURACIES[number], 2)
        if how is not None:
            left.remove((number, how))
            if how == "killed":
                shared.leave()  # as the system does
                shared = study(path, n_trials=len(ACCURACIES), pruner=pruner)
            else:
                attempt.finish("interrupted")
            continue
        state = "pruned" if pruned else "done"
        attempt.finish(state, accuracy=None if pruned else ACCURACIES[number])
        states[number] = state
    shared.leave()
    return states


@pytest.mark.long
@pytest.mark.parametrize("pruner", ["halving", "median", "none"])
def test_interruptions_do_not_change_which_trials_are_pruned(pruner, tmp_path):
    whole = states_of(tmp_path / "whole", pruner)
    assert ("pruned" in whole.values()) == (pruner != "none")
    interrupted = [(1, "stopped"), (1, "killed"), (5, "stopped"), (1, "stopped"), (0, "stopped")]
    assert states_of(tmp_path / "parts", pruner, interrupted) == whole


@pytest.mark.long
def test_halving_compares_with_done_pruned_and_first_trials_only(tmp_path):
    shared = study(tmp_path, pruner="halving")
    for number, state in enumerate(["done", "failed", "failed", "failed"]):
        attempt = shared.next()
        ended = attempt.report(0.9 if number else 0.5, 1)
        attempt.finish(state, accuracy=None if number else 0.5)
        assert not ended
    worse, better = shared.next(), None
    assert worse.report(0.4, 1)  # than the first, which alone counts
    worse.finish("pruned")
    better = shared.next()
    assert not better.report(0.6, 1)


def test_values_have_few_digits_and_integers_stay_integers(tmp_path):
    shared = study(tmp_path)
    for _ in range(5):
        attempt = shared.next()
        attempt.finish("done", accuracy=0.5)
        alpha, batch_size, decay = attempt.values.values()
        assert len(f"{alpha}") <= 7
        assert isinstance(batch_size, int)
        assert decay is None or 1 <= decay <= 28


@pytest.mark.long
def test_trials_are_pruned(tmp_path, monkeypatch, capsys):
    accuracy = fake_run(lambda options: 1 - abs(options.env.alpha - 0.2))  # the first is the best
    monkeypatch.setattr(trials_module, "train_and_validate", accuracy)
    table = tune(tmp_path / "study", "--trials", "4", "--pruner", "halving")
    assert table["state"][0] == "done"
    pruned = capsys.readouterr().out.count(": pruned after 1 of 2 epochs' budget at ")
    assert pruned == list(table["state"]).count("pruned") > 0


@pytest.mark.long
def test_runs_are_compared_at_equal_shares_of_their_budget(tmp_path):
    args = ["tune", *TINY_OPTIONS, "--budget", "flops", "--epochs", "3", "--out", str(tmp_path)]
    prepared = Tuning(parse(args), Console(quiet=True))
    prepared.prepare()
    points, n_steps = [], []
    train_and_validate(
        prepared.train_options,
        prepared.data,
        on_step=lambda: n_steps.append(1),
        on_point=lambda point, accuracy: points.append((point, accuracy)),
    )
    assert [point for point, _ in points] == [1, 2, 3]
    assert all(0 <= accuracy <= 1 and math.isfinite(accuracy) for _, accuracy in points)
    assert len(n_steps) > 3 * 7


@pytest.mark.long
def test_parallel_jobs(tmp_path, capfd):
    table = tune(tmp_path / "study", "--trials", "2", "--jobs", "2", "--epochs", "1")
    assert list(table["state"]) == ["done"] * 2
    assert "Of 2 done, trial " in capfd.readouterr().out


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--agent", "random"], "--agent must be one that learns from scratch, got random"),
        (["--agent", "pretrained"], "--agent must be one that learns from scratch"),
        (["--trials", "0"], "--trials must be in [1, 10^9], got 0"),
        (["--jobs", "0"], "--jobs must be in [1, 10^9], got 0"),
        (["--seeds"], "--seeds must be at least one, got none"),
        (["--seeds", "1", "1"], "--seeds must differ, got (1, 1)"),
        (["--pruner", "best"], "--pruner must be one of median, halving, none, got 'best'"),
        (["--search", "dqn.gama"], "--search must be among dqn.learning_rate, "),
        (["--agent", "ppo", "--sb3", "gamma"], "--sb3 must be given as name=value, got 'gamma'"),
        (["--out", "file/study"], "--out must be a folder, got file/study: "),
        (["--out", "other"], "--out must be a new folder or that of a study, got other, which"),
        (["--out", "made"], "made with --search ('dqn.gamma', 'alpha') instead of ()"),
        (["--out", "damaged", *FEW], "expected a study's database in damaged/study.db, got: "),
        (
            ["--out", "piped", *FEW],
            "expected a study's database in piped/study.db, got: a named pipe",
        ),
        (["--out", "others", *FEW], "the direction maximize in others/study.db, got: minimize"),
        (
            ["--out", "empty", *FEW],
            "empty: damaged: expected options in study.json",
        ),
        (
            ["--out", "foreign", *FEW],
            "expected a study's options in foreign/study.json, got: bogus is not known, got 3",
        ),
        (
            ["--out", "made", *FEW, "--seeds", "0", "--alpha", "0.3"],
            "made with --alpha 0.2",
        ),
        (["--out", "wide", "--alpha", "0.2"], "got wide, which searches alpha"),
    ],
)
def test_bad_input_is_refused_in_one_line(args, message, tmp_path, capsys, monkeypatch, instant):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").touch()
    for name in {"made", "damaged", "piped"} & set(args):
        tune(tmp_path / name, "--trials", "1")
    if "damaged" in args:
        (tmp_path / "damaged" / "study.db").write_bytes(b"no database " * 1000)
    if "piped" in args:
        (tmp_path / "piped" / "study.db").unlink()
        os.mkfifo(tmp_path / "piped" / "study.db")
    if "others" in args:
        tune(tmp_path / "others", "--trials", "1")
        (tmp_path / "others" / "study.db").unlink()
        storage = f"sqlite:///{tmp_path / 'others' / 'study.db'}"
        optuna.create_study(study_name="vit-patch", storage=storage, direction="minimize")
    for name, content in (("empty", {}), ("foreign", {"options": {"bogus": 3}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").write_text(json.dumps(content))
    if "wide" in args:
        main(["tune", *TINY_OPTIONS, "--trials", "1", "--out", "wide"])
    capsys.readouterr()
    assert message in refused(capsys, "tune", *TINY_OPTIONS, *args)


@pytest.mark.long
def test_typed_defaults_are_not_searched_nor_by_who_resumes(tmp_path, instant):
    args = ["--alpha", "0.2", "--dqn.gamma=0.95", "--trials", "1", "--out", str(tmp_path / "study")]
    main(["tune", *TINY_OPTIONS, *args])
    saved = json.loads((tmp_path / "study" / "study.json").read_text())
    words = shlex.split(saved["command"])[1:]
    assert {"--alpha", "--dqn.gamma"} <= set(words)
    for again in (["tune", *TINY_OPTIONS, *args], words):
        prepared = Tuning(parse(again), Console(quiet=True))
        prepared.prepare()
        searched = {one.name for one in prepared.dimensions}
        assert "dqn.tau" in searched
        assert not {"alpha", "dqn.gamma"} & searched


def test_the_default_folder_is_the_same_for_the_same_command():
    options = parse(["tune", *TINY_OPTIONS, "--agent", "bandit"])
    assert str(Tuning(options, Console(quiet=True)).path) == "runs/tune__synthetic__bandit"
