"""Full disks and damaged files."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np


@contextlib.contextmanager
def small_disk(path: Path, megabytes: int = 40) -> Iterator[Path]:
    """Mount a small file system at `path`.

    Raises:
        PermissionError: if mounting is not possible.
    """
    path.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PermissionError("a small file system cannot be mounted here") from error
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def damaged(content: bytes, n_cuts: int, n_flips: int, rng: np.random.Generator) -> Iterator[bytes]:
    """A file's content truncated at `n_cuts` positions, then with one of `n_flips` bits flipped."""
    for position in np.linspace(0, len(content) - 1, n_cuts).astype(int):
        yield content[:position]
    # Both ends, where the header and the checksum are, and random positions.
    positions = [*range(8), *range(len(content) - 8, len(content))]
    positions += rng.integers(len(content), size=n_flips - len(positions)).tolist()
    for position in positions:
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(rng.integers(8))
        yield bytes(flipped)
