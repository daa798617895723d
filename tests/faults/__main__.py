"""Inject faults into many runs and write the counts to docs/reliability.md: `make faults`.

tests/test_faults.py injects a few of them.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from tests.faults.commands import CommandFaults
from tests.faults.injection import Faults, Outcome, damages, unfinished_run
from tests.faults.runs import AGENTS
from vit_patch_env.experiments.cli import parse
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.run_folder.folder import processor_name
from vit_patch_env.experiments.runs import train


def checkpoint_cost(folder: Path) -> dict[str, float]:
    """Time and size of checkpoints of the paper's ViT and agent, and their share of the time."""
    run = folder / "cost"
    args = ["train", "--out", str(run), "--epochs", "2", "--checkpoint-every", "5"]
    options = parse(args)
    assert isinstance(options, TrainOptions)
    training = train.Run(options, Console(quiet=True))
    training.prepare()
    sizes: list[int] = []
    checkpoint = training.checkpoint
    save = checkpoint.folder.save

    def save_and_measure(step: int, state: Any, **more: int) -> None:
        save(step, state, **more)
        sizes.append(checkpoint.folder.files[0].stat().st_size)

    checkpoint.folder.save = save_and_measure  # type: ignore[method-assign]
    result = training.run()
    seconds = checkpoint.save_seconds / checkpoint.n_written
    n_steps = result["n_steps"]
    step_seconds = (result["train_seconds"] + result["agent_seconds"]) / n_steps
    snapshot = checkpoint.snapshot_seconds / n_steps
    return {
        "megabytes": float(np.mean(sizes)) / 1e6,
        "seconds": seconds,
        "step_seconds": step_seconds,
        "snapshot_seconds": snapshot,
        "share": seconds / 300 + snapshot / step_seconds,
    }


def table(outcomes: list[Outcome]) -> str:
    """A Markdown table of the outcomes."""
    lines = ["| fault | tried | passed | of those |", "|---|---:|---:|---|"]
    for outcome in outcomes:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(outcome.counts.items()))
        lines.append(
            f"| {outcome.name} | {outcome.n_tried} | {outcome.n_passed} | {counts or '-'} |"
        )
    return "\n".join(lines)


def commit() -> str:
    """The commit of the code."""
    words = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return done.stdout.strip() or "unknown"


def write_outcome(path: Path, text: str) -> None:
    """Replace the text between the markers of a Markdown file."""
    begin, stop = "<!-- outcome -->", "<!-- /outcome -->"
    before, _, rest = path.read_text().partition(begin)
    after = rest.partition(stop)[2]
    path.write_text(f"{before}{begin}\n{text}\n{stop}{after}")


def run_all() -> int:
    """Inject all faults and write the counts to a document; 1 if there were problems, else 0."""
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=30, help="number of kills; other faults are tried less often"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random times of the faults")
    parser.add_argument(
        "--document",
        type=Path,
        default=Path("docs/reliability.md"),
        help="Markdown file to write the counts to",
    )
    given = parser.parse_args()
    agents = list(AGENTS)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("measuring the cost of checkpoints ...", flush=True)
        cost = checkpoint_cost(folder)
        faults, of_commands = Faults(folder, given.seed), CommandFaults(folder, given.seed)
        some, few = max(given.runs // 3, 1), max(given.runs // 5, 1)
        outcomes = []
        for part in (
            lambda: faults.kills(given.runs, agents),
            lambda: faults.stops(max(given.runs // 2, 1), agents),
            lambda: faults.full_disks(few, agents),
            lambda: faults.workers(few, ["simple_vit", "agentvit"]),
            lambda: of_commands.groups(some),
            lambda: of_commands.servers(few),
            lambda: of_commands.starts(2 * given.runs),
            lambda: of_commands.compilations(few),
            lambda: of_commands.pretrainings(few),
            lambda: of_commands.benches(few),
            lambda: of_commands.reports(few),
            *(
                lambda agent=agent: damages(
                    unfinished_run(folder, agent) / "checkpoints", 20, 200, faults.rng
                )
                for agent in agents
            ),
        ):
            try:
                outcome = part()
            except PermissionError as error:
                outcome = Outcome(f"not tried: {error}")
            print(f"{outcome.name}: {outcome.n_passed} of {outcome.n_tried}", flush=True)
            for problem in outcome.problems:
                print(f"  {problem}", flush=True)
            outcomes.append(outcome)
    damage = Outcome("damaged checkpoint", counts={"agents' checkpoints": len(agents)})
    for outcome in [one for one in outcomes if one.name == damage.name]:
        outcomes.remove(outcome)
        damage.n_tried += outcome.n_tried
        damage.n_passed += outcome.n_passed
        damage.problems += outcome.problems
    outcomes.append(damage)
    write_outcome(
        given.document,
        f"Measured by `python -m tests.faults --runs {given.runs} --seed {given.seed}`, the last "
        f"part of `make faults`, in {(time.monotonic() - began) / 60:.0f} min on "
        f"{processor_name()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, at commit {commit()}.\n\n{table(outcomes)}\n\n"
        f"A checkpoint of the paper's ViT and agent has {cost['megabytes']:.0f} MB and takes "
        f"{cost['seconds']:.2f} s. The agent's snapshots at the start of rollouts take "
        f"{1e3 * cost['snapshot_seconds']:.2f} ms per step of {1e3 * cost['step_seconds']:.0f} ms. "
        f"With a checkpoint every five minutes this is **{cost['share']:.2%}** of a run's time.",
    )
    return int(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(run_all())
