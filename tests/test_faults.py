"""A few of the faults that `make faults` injects many times."""

import time

import pytest

from tests.conftest import TINY_OPTIONS
from tests.faults.injection import Faults
from tests.faults.runs import kill_writer, newest_step, trajectory
from vit_patch_env.experiments.cli import main


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return Faults(tmp_path_factory.mktemp("faults"))


def assert_all_passed(outcome):
    assert outcome.problems == []
    assert outcome.n_passed == outcome.n_tried > 0


@pytest.mark.long
def test_killed_runs_resume_identically(faults):
    assert_all_passed(faults.kills(1, ["random"]))


@pytest.mark.long
def test_a_stopped_run_prints_how_to_resume_and_resumes_identically(faults):
    assert_all_passed(faults.stops(1, ["random"]))


@pytest.mark.long
def test_a_run_continues_after_a_full_disk(faults):
    try:
        outcome = faults.full_disks(1, ["random"])
    except PermissionError as error:
        pytest.skip(str(error))
    assert_all_passed(outcome)


def compare(out):
    words = ["compare", *TINY_OPTIONS, "--epochs", "12", "--seeds", "0", "--methods", "simple_vit"]
    main([*words, "--checkpoint-every", "3", "--out", str(out)])
    return out / "runs" / "simple_vit__0"


@pytest.mark.one_in(2)
@pytest.mark.parametrize("n_kills", [2, 1])
def test_a_killed_worker_is_restarted_once(n_kills, tmp_path, monkeypatch, capsys):
    run, killed = tmp_path / "out" / "runs" / "simple_vit__0", []

    def wait(sentinels, timeout):
        ready = newest_step(run) > max(killed, default=0)
        if len(killed) < n_kills and ready and kill_writer(run / "log.txt"):
            killed.append(newest_step(run))
        time.sleep(0.002)

    monkeypatch.setattr("vit_patch_env.experiments.process.executor.wait", wait)
    if n_kills == 1:
        compare(tmp_path / "out")
        assert f"resumed at step {killed[0]}" in (run / "log.txt").read_text().replace("\n", " ")
        monkeypatch.undo()
        assert trajectory(run) == trajectory(compare(tmp_path / "uninterrupted"))
        return
    with pytest.raises(SystemExit) as stop:
        compare(tmp_path / "out")
    assert stop.value.code == 1
    output = capsys.readouterr().out
    assert f"simple_vit__0 failed: killed by signal 9 (log: {run / 'log.txt'})" in output
    assert len(killed) == 2
