"""Training runs in processes of their own, and the results to compare."""

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from tests.conftest import TINY_OPTIONS
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.process.forkserver import fork_context
from vit_patch_env.experiments.runs import train

AGENTS: dict[str, list[str]] = {
    "paper": [],
    "branching": [],
    "ppo": [],
    "a2c": [],
    "bandit": ["--bandit.decision-steps", "5"],
    "random": [],
    "spread": [],
    "centre": ["--observation", "none"],
    "attended": ["--observation", "attention_received+run"],
    "quadratic": ["--budget", "flops"],
    "dqn": ["--actions", "count", "--sb3", "learning_starts=5", "buffer_size=100"],
    "sac": ["--actions", "top_k", "--sb3", "learning_starts=5", "buffer_size=100"],
}
"""Agents of the interrupted runs, with options that cover all parts of a run."""

TIMES = {"images_per_second", "train_seconds", "agent_seconds", "waiting_share"}
NOT_REPRODUCIBLE = {
    "train_seconds", "agent_seconds", "waiting_share", "slow_share", "peak_memory_bytes", "command",
    "files",
}  # fmt: skip
LIMIT_SECONDS = 120.0


def train_command(agent: str, *more: str) -> list[str]:
    """Arguments of a `vit-patch train` that takes seconds."""
    words = [*TINY_OPTIONS, "--agent", agent, *AGENTS[agent], "--seed", "5"]
    return ["train", *words, "--epochs", "8", "--checkpoint-every", "1", *more]


def start(args: list[str], log: Path) -> BaseProcess:
    """Start `vit-patch` in a process with one thread; its output is appended to the log."""
    process: BaseProcess = fork_context().Process(target=_command, args=(args, str(log)))
    process.start()
    return process


def _command(args: list[str], log: str) -> None:
    with Path(log).open("a", buffering=1) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.stdout = sys.stderr = file
        torch.set_num_threads(1)
        train.RETRY_SECONDS = 1.0  # of results that cannot be written to a full disk
        main(args)


def join(process: BaseProcess) -> int:
    """Wait for a process to end; returns its exit code."""
    process.join(LIMIT_SECONDS)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"a process did not end within {LIMIT_SECONDS:.0f} s")
    return process.exitcode


def wait_for(condition: Callable[[], Any], process: BaseProcess, pause: float = 0.001) -> bool:
    """Wait until a condition is true or the process has ended; whether it became true."""
    while process.is_alive():
        if condition():
            return True
        time.sleep(pause)
    return False


def kill_writer(log: Path) -> bool:
    """SIGKILL the process that writes its output to this file; whether there was one."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and (entry / "fd" / "1").resolve() == log.resolve():
                os.kill(int(entry.name), signal.SIGKILL)
                return True
    return False


def trajectory(run: Path) -> dict[str, Any]:
    """Everything in a run's files that is reproducible: not times, memory, the agent's archive."""
    result = json.loads((run / "result.json").read_text())
    steps = [line.split(",")[0] for line in (run / "steps.csv").read_text().splitlines()]
    digests = {"selected.csv": result["files"]["selected.csv"], "steps.csv": steps}
    lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    metrics = [
        [value for name, value in zip(lines[0], line, strict=True) if name not in TIMES]
        for line in lines
    ]
    values = {name: value for name, value in result.items() if name not in NOT_REPRODUCIBLE}
    return values | digests | {"metrics": metrics, "vit": result["files"]["vit.safetensors"]}


def newest_step(run: Path) -> int:
    """Step of the newest checkpoint; 0 if there is none."""
    names = sorted((run / "checkpoints").glob("step-*.ckpt"))
    return int(names[-1].stem.removeprefix("step-")) if names else 0


def resumed_step(log: Path) -> int:
    """Step that the last resumed run in a log started from; 0 for the beginning."""
    steps = re.findall(r", resumed at step (\d+)", " ".join(log.read_text().split()))
    return int(steps[-1]) if steps else 0
