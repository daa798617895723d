"""The measured values as a page of Markdown."""

from collections.abc import Iterable, Mapping

from vit_patch_env.experiments.measure.values import Line, latest, shown_value
from vit_patch_env.system.escaping import code_block, markdown


def page(lines: Iterable[Line], states: Mapping[str, str]) -> str:
    """The page with the last value of each name.

    Args:
        lines: of the file of values.
        states: of the steps, in words, by name and in order.
    """
    found = latest(lines)
    shown = [line for values in found.values() for line in values.values()]
    machines = list(dict.fromkeys(map(_machine, shown)))
    parts = [
        "# Measurements",
        "Written by `vit-patch measure` from `figures.jsonl`, which has the command, machine, "
        "versions and time of each value. Of a value that was measured several times the last one "
        "is shown.",
        *([f"Measured on {machines[0]}."] if len(machines) == 1 else []),
        _table(("step", "state"), ((f"`{name}`", markdown(text)) for name, text in states.items())),
    ]
    for name in states:
        if values := found.get(name):
            parts += _section(name, list(values.values()), several=len(machines) > 1)
    return "\n\n".join(parts) + "\n"


def _section(name: str, lines: list[Line], *, several: bool) -> list[str]:
    """The values of a step, and how they were measured.

    Args:
        name: of the step.
        lines: of its values.
        several: whether the values of the page are of several machines, or versions.
    """
    times = [line["time"] for line in lines]
    first, last = min(times), max(times)
    when = first if first == last else f"{first} to {last}"
    where = f", on {'; '.join(dict.fromkeys(map(_machine, lines)))}" if several else ""
    rows = (
        (markdown(line["name"]), markdown(shown_value(line["value"])), markdown(line["unit"]))
        for line in lines
    )
    return [
        f"## {name}",
        code_block(list(dict.fromkeys(line["command"] for line in lines)), "sh"),
        f"{when}{where}.",
        _table(("what", "value", "unit"), rows),
    ]


def _machine(line: Line) -> str:
    """The machine and the versions that a value was measured with, for Markdown."""
    versions = ", ".join(f"{package} {one}" for package, one in line["versions"].items())
    return markdown(f"{line['machine']} ({versions})")


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
