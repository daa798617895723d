"""Numbers and names in the sentences of a report."""

import shlex
from collections.abc import Iterable
from typing import Any

from vit_patch_env.experiments.report.statistics import MIN_SEEDS, Estimate
from vit_patch_env.system.shown import escaped


def listed(names: Iterable[str]) -> str:
    """Names with `and` before the last; semicolons between them where a name has a comma."""
    names = list(names)
    separator = "; " if any("," in name for name in names) else ", "
    return " and ".join(filter(None, [separator.join(names[:-1]), *names[-1:]]))


def unique(values: Iterable[Any]) -> list[str]:
    """Each value once, in order, as a name in one line, without empty ones."""
    return list(dict.fromkeys(escaped(str(value)) for value in values if value))


def command_lines(command: str, width: int = 88) -> list[str]:
    """A command in lines that a shell reads as the same command.

    Args:
        command: as it was typed.
        width: of a line with more than one word.

    Returns:
        The lines, none for an empty command; the command as it is if it is not quoted as `shlex`
        does.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not command or shlex.join(words) != command:
        return [command] if command else []
    options: list[list[str]] = [[]]
    for word in map(shlex.quote, words):
        if word.startswith("--"):
            options.append([])
        options[-1].append(word)
    lines = [""]
    for option in options:  # with its values, which stay on its line if it has space for them
        parts = [" ".join(option)] if len(" ".join(option)) <= width - 6 else option
        for part in parts:
            if lines[-1] and len(lines[-1]) + len(part) + 3 > width:
                lines.append("   ")
            lines[-1] = f"{lines[-1]} {part}" if lines[-1] else part
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def points(share: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * share:+z.2f}"


def points_interval(value: Estimate) -> str:
    """The interval of a difference in percentage points, to follow the mean."""
    return f" [{points(value.low)}, {points(value.high)}]" if value.n > 1 else ""


def ratio_interval(value: Estimate) -> str:
    """The interval of a ratio, to follow the mean."""
    return f" [{value.low:.2f}, {value.high:.2f}]" if value.n > 1 else ""


def points_range(value: Estimate) -> str:
    """The range over the seeds, where there are too few for an interval to be accurate."""
    if not 1 < value.n < MIN_SEEDS:
        return ""
    low, high = points(value.lowest), points(value.highest)
    return f" Per seed, the accuracy differs by {low} to {high} points."
