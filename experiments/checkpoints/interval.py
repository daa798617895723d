"""The time between two checkpoints."""

import re
import time
from typing import NamedTuple

from vit_patch_env.checks import ArgumentError

RETRY_SECONDS = 60.0
"""The longest wait before a checkpoint that could not be written is tried again."""


class CheckpointInterval(NamedTuple):
    """Time between checkpoints in steps or in seconds; neither means no regular checkpoints."""

    steps: int | None = None
    seconds: float | None = None


def parse_interval(text: str, name: str = "checkpoint_every") -> CheckpointInterval:
    """Parse an interval such as that of `--checkpoint-every`.

    Args:
        text: a number of steps (`500`), a time (`5min`, `30s`) or `never`.
        name: of the argument, for the error message.

    Raises:
        ArgumentError: for anything else.
    """
    if text == "never":
        return CheckpointInterval()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(min|s|)", text, re.ASCII)
    number = float(match[1]) if match else 0.0
    if match is None or not 0 < number < float("inf") or (not match[2] and "." in match[1]):
        raise ArgumentError(
            name,
            f"must be a number of steps such as 500, a time such as 5min or 30s, or never, "
            f"got {text!r}",
        )
    if not match[2]:
        return CheckpointInterval(steps=int(match[1]))
    return CheckpointInterval(seconds=60 * number if match[2] == "min" else number)


class CheckpointSchedule:
    """Decides when a checkpoint is due.

    Args:
        interval: between checkpoints.
    """

    def __init__(self, interval: CheckpointInterval) -> None:
        self.interval = interval
        self.restart()

    def restart(self) -> None:
        """Start the interval again, after a checkpoint."""
        seconds = self.interval.seconds
        self._due_time = float("inf") if seconds is None else time.monotonic() + seconds

    def retry(self) -> float:
        """Start a shorter interval, after a failure.

        Returns:
            Its length in seconds.
        """
        seconds = min(self.interval.seconds or RETRY_SECONDS, RETRY_SECONDS)
        self._due_time = time.monotonic() + seconds
        return seconds

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after this step."""
        steps = self.interval.steps
        return (steps is not None and step % steps == 0) or time.monotonic() >= self._due_time
