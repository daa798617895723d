"""Signals of a process group, as `timeout`, Slurm and systemd send them: to workers as well."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import TINY_OPTIONS
from tests.faults.runs import newest_step

LONG = ["--epochs", "2000", "--jobs", "2"]


def tune_started(out):
    """Whether both workers of a study train."""
    try:
        with closing(sqlite3.connect(f"file:{out / 'study.db'}?mode=ro", uri=True)) as database:
            query = "SELECT count(*) FROM trial_user_attributes WHERE key = 'started'"
            return database.execute(query).fetchone() == (2,)
    except sqlite3.Error:  # not written yet
        return False


def check_tune(out):
    """No trial of a study was killed."""
    with closing(sqlite3.connect(out / "study.db")) as database:
        query = "SELECT value_json FROM trial_user_attributes WHERE key = 'ended'"
        ended = [text for (text,) in database.execute(query)]
    assert len(ended) == 2
    assert all('"state": "interrupted"' in text for text in ended)


def runs(out):
    return [path.parent for path in out.glob("runs/*/log.txt")]


def compare_started(out):
    """Whether both runs of a comparison train."""
    return [(run / "steps.csv").exists() for run in runs(out)] == [True] * 2


def check_compare(out):
    """Both runs of a comparison have a checkpoint of where they were stopped."""
    for run in runs(out):
        assert newest_step(run) > 0
        assert f"stopped at step {newest_step(run)}" in (run / "log.txt").read_text()


COMMANDS = {
    "tune": (
        ["tune", *TINY_OPTIONS, "--search", "alpha", "--pruner", "none", *LONG],
        tune_started,
        check_tune,
        "stopped; the same command resumes the study",
    ),
    "compare": (
        ["compare", *TINY_OPTIONS, "--methods", "agentvit", "--seeds", "0", "1",
         "--checkpoint-every", "1000000", *LONG],
        compare_started,
        check_compare,
        "Interrupted. Unfinished runs are kept; the same command resumes them.",
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_signal_for_the_group_stops_every_worker_where_it_resumes(name, tmp_path):
    if name == "tune":
        pytest.importorskip("optuna")
    args, is_started, check, message = COMMANDS[name]
    out = tmp_path / "out"
    with (tmp_path / "output").open("w+") as output:
        command = subprocess.Popen(
            [sys.executable, "-c", "from vit_patch_env.experiments.cli import main; main()",
             *args, "--out", str(out)],
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            wait_until(lambda: is_started(out), command)
            time.sleep(0.2)
            for _ in range(3):  # `timeout` sends its signal twice
                os.killpg(command.pid, signal.SIGTERM)
                time.sleep(0.02)
            assert command.wait(60) == 128 + signal.SIGTERM
            wait_until(lambda: not members(command.pid))
        finally:
            if members(command.pid):
                os.killpg(command.pid, signal.SIGKILL)
            command.wait()
        output.seek(0)
        text = output.read()
    assert message in text
    assert "Traceback" not in text
    assert "Exception" not in text
    check(out)


def members(group):
    """The processes of a group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def wait_until(condition, process=None):
    for _ in range(2400):
        if condition():
            return
        if process is not None:
            assert process.poll() is None
        time.sleep(0.05)
    pytest.fail("nothing has happened for two minutes")
