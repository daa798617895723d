"""Try all clients, each in a process of its own, and write docs/clients.md: `make clients`."""

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from tests.clients.attempts import HEADER, row, version

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
CLIENTS = (
    "gymnasium", "torchrl", "tianshou", "rl_zoo3", "pettingzoo", "supersuit", "cleanrl",
)  # fmt: skip
BESIDE = ("torch", "gymnasium", "stable-baselines3")
"""Packages whose versions matter to every client."""


def row_of(client: str, log: Path) -> str:
    """The line that a client's script prints last, or what kept it from doing so."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", f"tests.clients.with_{client}"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    log.write_text(done.stdout + done.stderr)
    rows = [line for line in done.stdout.splitlines() if re.fullmatch(r"\|( .* \|){4}", line)]
    if rows:
        return rows[-1]
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return row(client, "-", "-", f"failed: {last}")


def write_outcome(page: Path, text: str) -> None:
    """Replace the text between the markers of a page."""
    begin, stop = "<!-- outcome -->", "<!-- /outcome -->"
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}\n{text}\n{stop}{rest.partition(stop)[2]}")


def main() -> int:
    """Try clients; 1 if one failed, else 0. The page is written if all were tried."""
    parser = argparse.ArgumentParser("python -m tests.clients", description=__doc__)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"of {', '.join(CLIENTS)}")
    parser.add_argument("--logs", type=Path, default=Path("client-logs"), help="what they print")
    given = parser.parse_args()
    unknown = set(given.clients) - set(CLIENTS)
    if unknown:
        parser.error(f"expected clients of {', '.join(CLIENTS)}, got {', '.join(unknown)}")
    given.logs.mkdir(parents=True, exist_ok=True)
    rows = []
    for client in given.clients or CLIENTS:
        rows.append(row_of(client, given.logs / f"{client}.txt"))
        print(rows[-1], flush=True)
    if not given.clients:
        beside = ", ".join(f"{package} {version(package)}" for package in BESIDE)
        text = f"Tried with Python {platform.python_version()}, {beside}.\n\n"
        write_outcome(ROOT / "docs" / "clients.md", text + "\n".join([HEADER, *rows]))
    return int(any("failed" in one.split(" | ")[-1] for one in rows))


if __name__ == "__main__":
    sys.exit(main())
