"""A container's environment: no home, passwd entry, compiler and terminal."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY_OPTIONS

USER = 54321
"""A user whom the system does not know."""

COMMANDS = """
import getpass, os, shutil, sys
from vit_patch_env.experiments.cli import main

def commands(out, options):
    for args in (
        ["train", *options, "--out", f"{out}/run"],
        ["evaluate", f"{out}/run"],
        ["compare", *options, "--methods", "simple_vit", "--seeds", "0", "--out", f"{out}/all"],
        ["report", f"{out}/all"],
    ):
        main(args)

if __name__ == "__main__":
    assert os.getuid() == int(sys.argv[1])
    assert shutil.which("cc") is None
    assert not sys.stdin.isatty()
    assert os.path.expanduser("~") == "~"
    try:
        getpass.getuser()
    except (KeyError, OSError):
        commands(sys.argv[2], sys.argv[3:])
"""
"""The commands, in one process, as importing torch takes seconds."""


def as_unknown_user(*args, cwd, **env):
    """Run a program as a user without a name, with these environment variables alone."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed")
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    # It may read all files, as Python may be installed in root's home, but write only its own.
    can_read = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    identity = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    bounds = ["--bounding-set=-all,+dac_read_search"]
    return subprocess.run(
        [setpriv, *identity, *can_read, *bounds, *args],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=cwd, env=env,
    )  # fmt: skip


@pytest.fixture
def own_folder():
    """A folder of the unknown user, outside those of root's temporary files."""
    folder = Path(f"/tmp/vit-patch-container-{os.getpid()}")
    folder.mkdir()
    os.chown(folder, USER, USER)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.long
def test_all_commands_work_without_home_user_compiler_and_terminal(own_folder):
    script = own_folder / "commands.py"
    script.write_text(COMMANDS)
    done = as_unknown_user(
        sys.executable, str(script), str(USER), str(own_folder), *TINY_OPTIONS, "--epochs", "1",
        cwd=own_folder, PATH="/nonexistent", TMPDIR=str(own_folder),
        PYTHONPATH=os.pathsep.join(sys.path), OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("vit-patch: warning: attention takes") for line in lines)
    assert {"run", "all", f"vit-patch-env-{USER}"} <= {path.name for path in own_folder.iterdir()}
    assert (own_folder / "run" / "result.json").is_file()
    assert (own_folder / "all" / "report.html").is_file()
    assert not (own_folder / "~").exists()
