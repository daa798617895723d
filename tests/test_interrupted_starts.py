"""Signals to `vit-patch` while it starts end it in one line, whatever is being imported."""

import os
import signal
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from vit_patch_env.experiments.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""

SIGNALLED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in the background
def hook(event, args):
    if event == "import" and args[0] == {at!r}:
        signal.raise_signal({number})
sys.addaudithook(hook)
"""
"""Sends a signal to its own process when a module is imported."""

MOMENTS = (
    "gymnasium", "numpy", "vit_patch_env.experiments.options.commands", "tyro", "rich.console",
    "torch", "torch._C", "stable_baselines3",
)  # fmt: skip


@pytest.fixture
def start(tmp_path):
    """Starts the console script, which gets a signal at the import of a module."""
    processes = []

    def start(number, at, args=("train", "--resume", "/nope")):
        script = tmp_path / f"{at}-{number}" / "vit-patch"
        script.parent.mkdir()
        script.write_text(SIGNALLED.format(number=int(number), at=at) + SCRIPT)
        process = subprocess.Popen(
            [sys.executable, str(script), *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.long
@pytest.mark.parametrize("moments", [[*MOMENTS[::2]], [*MOMENTS[1::2]]])
def test_a_signal_during_an_import_ends_it_in_one_line(moments, start):
    numbers = (signal.SIGINT, signal.SIGTERM)
    signalled = [(numbers[index % 2], at) for index, at in enumerate(moments)]
    started = [start(number, at) for number, at in signalled]
    for (number, at), process in zip(signalled, started, strict=True):
        out, error = process.communicate(timeout=60)
        said = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
        assert (at, process.returncode, out) == (at, 128 + number, "")
        assert (at, error) == (at, f"vit-patch: {said}\n")


def test_without_a_signal_it_starts(start):
    process = start(signal.SIGINT, "a module that is not imported", ["trian"])
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error == "vit-patch: trian is not a command; did you mean train?\n"


def test_importing_the_package_elsewhere_leaves_the_signals_alone():
    code = (
        "import signal\n"
        "before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]\n"
        "import vit_patch_env\n"
        "print(before == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
