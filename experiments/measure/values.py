"""Measured values: one JSON object a line, added as soon as it is known."""

import json
import math
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from vit_patch_env.checks import InputError
from vit_patch_env.reading import JSON_BYTES, parse_json, read_bytes


class Value(NamedTuple):
    """A measured value.

    Attributes:
        name: of what was measured.
        value: a number, or a text.
        unit: of a number; empty for a share or a text.
    """

    name: str
    value: float | str
    unit: str = ""


class Line(TypedDict):
    """A line of the file."""

    step: str
    name: str
    value: float | str
    unit: str
    command: str
    machine: str
    versions: dict[str, str]
    time: str


_LINE = TypeAdapter(Line)


class ValueFile:
    """A file of measured values, to which others are added.

    Args:
        path: of the file, which need not exist.
        machine: that measures from here on.
        versions: of the packages, by name.

    Raises:
        InputError: for a file with something else in it.
    """

    def __init__(self, path: Path, machine: str, versions: dict[str, str]) -> None:
        self._path = path
        self._origin = {"machine": machine, "versions": versions}
        self._drop_partial_line()
        self._latest = {(line["step"], line["name"]): line["value"] for line in self.read()}

    def read(self) -> list[Line]:
        """All lines, in order.

        Raises:
            InputError: naming a line that is none of ours.
        """
        if not self._path.exists():
            return []
        content = read_bytes(self._path, JSON_BYTES, "measured values")
        lines = content.split(b"\n")[:-1]
        return [self._parsed(number, line) for number, line in enumerate(lines, start=1)]

    def add(self, step: str, command: str, values: Iterable[Value]) -> None:
        """Add the values that are new, or differ from those that are known."""
        lines = []
        for name, value, unit in values:
            is_finite = isinstance(value, str) or math.isfinite(value)
            if not is_finite or self._latest.get((step, name)) == value:
                continue
            self._latest[step, name] = value
            line = {"step": step, "name": name, "value": value, "unit": unit, "command": command}
            now = datetime.now(UTC).isoformat(timespec="seconds")
            lines.append(json.dumps({**line, **self._origin, "time": now}, ensure_ascii=False))
        if not lines:
            return
        with self._path.open(
            "a", encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())

    def _drop_partial_line(self) -> None:
        """Remove the end of a line that a killed process had begun."""
        if not self._path.exists():
            return
        content = read_bytes(self._path, JSON_BYTES, "measured values")
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._path, whole)

    def _parsed(self, number: int, line: bytes) -> Line:
        try:
            return _LINE.validate_python(parse_json(line), strict=True)
        except (ValidationError, InputError) as error:
            raise InputError(
                f"expected measured values in {self._path}, got something else in line {number}"
            ) from error


def latest(lines: Iterable[Line]) -> dict[str, dict[str, Line]]:
    """The last line of each value, by step and name, in the order in which they came first."""
    found: dict[str, dict[str, Line]] = {}
    for line in lines:
        found.setdefault(line["step"], {})[line["name"]] = line
    return found


def shown_value(value: Any) -> str:
    """A value as it is shown: numbers with four digits."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)
