"""`make plan`: plans trainings on this machine's CPU, trains them, and compares time and FLOPs.

Each by one process and by two. It ends with status 1 if a time or a number of FLOPs is more than
20 % off. The machine should do nothing else meanwhile.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from vit_patch_env import load_dataset

MOST_WRONG = 0.2
"""Share of what was measured."""

MODULE = "vit_patch_env.experiments"
TRAINING = [
    "--batch-size", "64", "--device", "cpu", "--dim", "64", "--depth", "4", "--heads", "4",
    "--dim-head", "32", "--mlp-dim", "256",
]  # fmt: skip
"""A ViT of which a run takes less than a minute."""


class Case(NamedTuple):
    """A training.

    Attributes:
        agent: what picks patches.
        budget: of the run.
        epochs: that the budget is worth on all patches.
        run: of the plan, by its name in JSON.
    """

    agent: str
    budget: str
    epochs: int
    run: str


CASES = [
    Case("all", "epochs", 3, "all_patches"),
    Case("quadratic", "epochs", 3, "equal_steps"),
    Case("pretrained", "flops", 3, "equal_flops"),
]


def plan(case: Case, n_processes: int) -> dict[str, Any]:
    """The plan's run."""
    data = load_dataset("digits")
    command = [
        sys.executable, "-c", f"from {MODULE}.cli import main; main()", "plan", "--json",
        "--agent", case.agent, "--epochs", str(case.epochs), "--devices", str(n_processes),
        "--images", str(len(data.train.labels)), "--classes", "10", "--channels", "1", *TRAINING,
    ]  # fmt: skip
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    run: dict[str, Any] = json.loads(found)["runs"][case.run]
    return run


def train(case: Case, n_processes: int, out: Path) -> dict[str, Any]:
    """The result of the run."""
    several = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes), "-m"]
    command = [
        sys.executable, "-m", *(several if n_processes > 1 else []), f"{MODULE}.train",
        "--dataset", "digits", "--agent", case.agent, "--budget", case.budget,
        "--epochs", str(case.epochs), "--out", str(out), *TRAINING,
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return result


def main() -> None:
    """Compare all cases, and print a table in Markdown."""
    print("| agent | budget | processes | steps | seconds, planned | trained | ratio | FLOPs |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    wrong = False
    for n_processes in (1, 2):
        for case in CASES:
            planned = plan(case, n_processes)
            with tempfile.TemporaryDirectory() as folder:
                trained = train(case, n_processes, Path(folder) / "run")
            seconds, flops = (
                planned[one] / trained[other]
                for one, other in (("seconds", "train_seconds"), ("flops", "flops"))
            )
            wrong |= max(abs(seconds - 1), abs(flops - 1)) > MOST_WRONG
            print(
                f"| `{case.agent}` | {case.budget} | {n_processes} | {trained['n_steps']} | "
                f"{planned['seconds']:.1f} | {trained['train_seconds']:.1f} | {seconds:.2f} | "
                f"{flops:.3f} |",
                flush=True,
            )
    if wrong:
        sys.exit(f"expected plans within {MOST_WRONG:.0%} of what was measured")


if __name__ == "__main__":
    main()
