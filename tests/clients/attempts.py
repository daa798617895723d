"""What a script tries with a client, and the one line in which it says what came of it."""

import contextlib
import importlib.metadata
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import torch

TINY: dict[str, Any] = {
    "dataset": "synthetic", "dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "mlp_dim": 16,
    "patch_size": 8, "batch_size": 64, "epochs": 2, "device": "cpu", "precision": "fp32",
}  # fmt: skip
"""A ViT of 16 patches, whose episode has 14 steps."""

N_STEPS = 14

HEADER = "| client | version | what was tried | outcome |\n| --- | --- | --- | --- |"


def version(package: str) -> str:
    """The version of an installed package, without what says how it was built."""
    return importlib.metadata.version(package).partition("+")[0]


def row(client: str, installed: str, tried: str, outcome: str) -> str:
    """A row of the table, on one line."""
    cells = (client, installed, tried, outcome)
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def attempt(
    client: str, package: str | None, tried: dict[str, Callable[[], str | None]]
) -> NoReturn:
    """Try everything, even after a failure; print the row; exit with 1 if anything failed.

    Args:
        client: its name.
        package: what is installed; None if the script itself is the client.
        tried: by what it tries, functions that raise if it fails, and may return a remark.
    """
    torch.set_num_threads(1)
    problems, remarks = [], []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for what, function in tried.items():
            try:
                remarks.append(function() or "")
            except Exception as error:
                traceback.print_exc()
                lines = f"{error}".splitlines() or [""]
                problems.append(f"{what}: {type(error).__name__}: {lines[0]}")
    said = "; ".join(remark for remark in dict.fromkeys(remarks) if remark)
    passed = f"passed ({said})" if said else "passed"
    outcome = f"failed at {'; '.join(problems)}" if problems else passed
    print(row(client, version(package) if package else "-", ", ".join(tried), outcome), flush=True)
    sys.exit(bool(problems))
