"""Gymnasium: its checks of every combination of observation, reward, budget and action wrapper."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.clients.attempts import attempt
from tests.gymnasium_checks import CHECKS, crossed

ROOT = Path(__file__).parent.parent.parent


def check_all() -> str:
    """In a process per core, where pytest-xdist is installed."""
    # pytest-benchmark, which a client may bring, warns that it cannot measure beside pytest-xdist.
    options = ["-n", "auto", "--maxprocesses", "8", "-p", "no:benchmark"]
    options += ["-m", "long or not long"]
    command = [sys.executable, "-m", "pytest", *options, "tests/test_gymnasium_checks.py"]
    done = subprocess.run(
        command, env=os.environ | {"VARIANTS": "all"}, cwd=ROOT, capture_output=True, text=True
    )
    counts = re.search(r"(\d+ failed, )?(\d+) passed", done.stdout)
    if done.returncode or not counts:
        raise RuntimeError(counts[0] if counts else (done.stdout + done.stderr)[-500:])
    return f"{len(CHECKS)} checks of {len(crossed())} variants"


if __name__ == "__main__":
    attempt(
        "Gymnasium",
        "gymnasium",
        {
            "`check_env`, passive checker, determinism, `EnvSpec`, pickling, `SyncVectorEnv`: "
            "observation, reward, budget and action wrapper crossed": check_all
        },
    )
