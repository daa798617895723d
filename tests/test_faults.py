"""A few of the faults that `make faults` tries many times."""

import time

import pytest

from tests.conftest import TINY_OPTIONS
from tests.faults import Faults, course, kill_writer, newest_step
from vit_patch_env.experiments.cli import main


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return Faults(tmp_path_factory.mktemp("faults"))


def all_equal(outcome):
    assert outcome.problems == []
    assert outcome.equal == outcome.tried > 0


def test_killed_runs_come_to_the_same_end(faults):
    all_equal(faults.kills(1, ["random"]))


def test_a_run_that_is_told_to_stop_says_how_to_go_on_and_comes_to_the_same_end(faults):
    all_equal(faults.stops(1, ["random"]))


def test_a_run_goes_on_behind_a_full_disk(faults):
    try:
        outcome = faults.full_disks(1, ["random"])
    except PermissionError as error:
        pytest.skip(str(error))
    all_equal(outcome)


def compare(out):
    words = ["compare", *TINY_OPTIONS, "--epochs", "12", "--seeds", "0", "--methods", "simple_vit"]
    main([*words, "--checkpoint-every", "3", "--out", str(out)])
    return out / "runs" / "simple_vit__0"


@pytest.mark.parametrize("n_kills", [1, 2])
def test_a_killed_worker_is_tried_once_more(n_kills, tmp_path, monkeypatch, capsys):
    run, killed = tmp_path / "out" / "runs" / "simple_vit__0", []

    def wait(sentinels, timeout):
        ready = newest_step(run) > max(killed, default=0)
        if len(killed) < n_kills and ready and kill_writer(run / "log.txt"):
            killed.append(newest_step(run))
        time.sleep(0.002)

    monkeypatch.setattr("vit_patch_env.experiments.compare.comparison.wait", wait)
    if n_kills == 1:
        compare(tmp_path / "out")
        assert f"from step {killed[0]} on" in (run / "log.txt").read_text().replace("\n", " ")
        monkeypatch.undo()
        assert course(run) == course(compare(tmp_path / "unbroken"))
        return
    with pytest.raises(SystemExit) as stop:
        compare(tmp_path / "out")
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert f"simple_vit__0 failed: killed by signal 9 (log: {run / 'log.txt'})" in said
    assert len(killed) == 2
