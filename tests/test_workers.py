"""Processes that work for a command are known to live, or how they ended, in any case."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vit_patch_env.experiments.process import workers

SCRIPT = """
import os, signal, sys, time
from multiprocessing import forkserver
from multiprocessing.connection import wait
from vit_patch_env.experiments.process import forkserver as own, workers

def work(how):
    open("working", "w").close()
    until = time.monotonic() + 30  # longer than the test waits for
    while not os.path.exists("continue") and time.monotonic() < until:
        time.sleep(0.01)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fails":
        raise KeyError("a bug")
    if how != "done":
        sys.exit(int(how) if how.isdigit() else how)

if __name__ == "__main__":
    del own._PRELOAD[1:]
    how, server = sys.argv[1:]
    worker = workers.Worker(work, how)
    while not os.path.exists("working"):  # else the server could be killed before it forks
        time.sleep(0.01)
    if server == "dies":
        pid = forkserver._forkserver._forkserver_pid
        os.kill(pid, signal.SIGKILL)
    wait([worker.sentinel], timeout=0.3)
    assert worker.exitcode is None, worker.exitcode
    if how == "stopped":
        workers.stop_workers([worker])
    open("continue", "w").close()
    worker.join()
    worker.send_signal(signal.SIGTERM)
    print(worker.exitcode)
    os.unlink("continue")
    again = workers.Worker(work, "stubborn")
    workers.kill_workers([again])
    again.join()
    print(again.exitcode)
"""

KILLED = -signal.SIGKILL


@pytest.mark.one_in(6)
@pytest.mark.parametrize(
    ("how", "server", "exitcode"),
    [
        ("done", "dies", 0),
        ("done", "lives", 0),
        ("3", "dies", 3),
        ("killed", "dies", 255),
        ("killed", "lives", KILLED),
        ("255", "lives", 255),
        ("stopped", "dies", 255),
        ("stopped", "lives", -signal.SIGTERM),
        ("a message", "dies", 1),
        ("fails", "dies", 1),
    ],
)
def test_how_a_worker_ended_is_known_though_multiprocessings_server_was_killed(
    how, server, exitcode, tmp_path
):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), how, server], cwd=tmp_path, timeout=25, check=False,
        capture_output=True, text=True, env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    lines = done.stdout.split("\n")
    assert lines == [str(exitcode), str(KILLED), ""], done.stdout + done.stderr


def test_a_server_that_is_just_being_killed_is_replaced(monkeypatch):
    starts, contexts = [], workers.fork_context

    class Ending:
        """A server that has closed its connections, though its process has not ended yet."""

        class Process:
            def __init__(self, **options):
                starts.append(options)

            def start(self):
                raise EOFError("unexpected EOF")

    monkeypatch.setattr(workers, "fork_context", lambda: Ending if len(starts) < 2 else contexts())
    worker = workers.Worker(sys.exit, 3)
    worker.join()
    assert (worker.exitcode, len(starts)) == (3, 2)
    monkeypatch.setattr(workers, "_SERVER_ENDS", -1.0)
    monkeypatch.setattr(workers, "fork_context", lambda: Ending)
    with pytest.raises(EOFError):
        workers.Worker(sys.exit, 3)
