"""`stopping`: the first signal requests a stop, the second ends the process and its workers."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from vit_patch_env.experiments.process.signals import SAME_SECONDS, STOP_SIGNALS, stopping
from vit_patch_env.experiments.process.workers import become_worker

STUBBORN = """
import hashlib, time
from vit_patch_env.experiments.process.signals import stopping
with stopping(lambda: print("stop"), lambda: print("workers end", flush=True)) as received:
    print("ready", flush=True)
    while not received:
        time.sleep(0.001)
    time.sleep(0.2)
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # not interrupted by handlers
"""


def test_a_second_signal_ends_the_process_at_once_whatever_it_does():
    with started(STUBBORN) as process:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # as one
            process.send_signal(number)
        assert process.stdout.readline() + process.stdout.readline() == "stop\nbusy\n"
        time.sleep(SAME_SECONDS)
        assert process.poll() is None
        process.send_signal(signal.SIGHUP)
        assert process.wait(20) == 128 + signal.SIGHUP
        assert process.stdout.read() == "workers end\n"
        assert process.stderr.read() == ""


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_every_signal_stops_and_those_at_once_count_as_one(number):
    before = [signal.signal(one, signal.default_int_handler) for one in STOP_SIGNALS]
    requests = []
    try:
        with stopping(lambda: requests.append(1), lambda: pytest.fail("ended")) as received:
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)
        assert (requests, received) == ([1], [number, signal.SIGTERM])
        assert {signal.getsignal(one) for one in STOP_SIGNALS} == {signal.default_int_handler}
    finally:
        for one, handler in zip(STOP_SIGNALS, before, strict=True):
            signal.signal(one, handler)
    assert signal.set_wakeup_fd(-1) == -1


def work(connection):
    """A worker, which answers only after it was stopped."""
    for number in STOP_SIGNALS:  # which are ignored where the tests run in the background
        signal.signal(number, signal.SIG_DFL)
    become_worker()
    with stopping(lambda: connection.send("stop")) as received:
        connection.send("ready")
        connection.recv()
    connection.send(list(received))
    connection.recv()


def test_to_a_worker_all_signals_are_one():
    context = multiprocessing.get_context("spawn")
    connection, other = context.Pipe()
    worker = context.Process(target=work, args=(other,))
    worker.start()
    assert connection.recv() == "ready"
    os.kill(worker.pid, signal.SIGINT)  # which is for the command
    os.kill(worker.pid, signal.SIGHUP)
    assert connection.recv() == "stop"
    time.sleep(SAME_SECONDS)
    worker.terminate()
    connection.send("answer")
    assert connection.recv() == [signal.SIGHUP, signal.SIGTERM]
    worker.terminate()
    time.sleep(0.1)
    connection.send("end")
    worker.join(20)
    assert worker.exitcode == 0


PARENT = """
from multiprocessing import get_context
from tests.test_signals import work
if __name__ == "__main__":
    context = get_context("spawn")
    connection, other = context.Pipe()
    worker = context.Process(target=work, args=(other,))
    worker.start()
    other.close()
    connection.recv()
    print(worker.pid, flush=True)
    connection.recv()
"""


def test_a_worker_ends_when_its_parent_was_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    with started(tmp_path / "parent.py") as parent:
        worker = int(parent.first)
        parent.kill()
        parent.wait()
        for _ in range(400):
            if not Path(f"/proc/{worker}").exists():
                return
            time.sleep(0.05)
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker has not ended")


@contextmanager
def started(program):
    """A Python process, a text or a file, whose first line of output has come."""
    args = [str(program)] if isinstance(program, Path) else ["-c", program]
    with subprocess.Popen(
        [sys.executable, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=restore_interrupts,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        try:
            process.first = process.stdout.readline()
            assert process.first, process.stderr.read()
            yield process
        finally:
            process.kill()


def restore_interrupts():
    """Hear SIGINT, which is ignored in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping(lambda: pytest.fail("stop requested")) as received:
            signal.raise_signal(signal.SIGINT)
        assert not received
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_not_changed_in_other_threads():
    before = signal.getsignal(signal.SIGTERM)
    handlers = []

    def run():
        with stopping(lambda: None):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]
