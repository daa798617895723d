"""Tables as text in cells, and how numbers are formatted in them."""

import math
from collections.abc import Callable
from typing import NamedTuple

from vit_patch_env.experiments.report.statistics import Estimate, estimate

EMPTY = "-"
Format = Callable[[float], str]


class Cell(NamedTuple):
    """A cell.

    Attributes:
        text: the value.
        note: after it: its interval, or what is missing.
        remark: below it: the paper's value, or that a difference is not significant.
    """

    text: str
    note: str = ""
    remark: str = ""


class Row(NamedTuple):
    """A method's row."""

    title: str
    cells: list[Cell]
    method: str


class Block(NamedTuple):
    """The rows of a group of methods."""

    title: str
    rows: list[Row]


class Table(NamedTuple):
    """A table; its columns are those after the methods' titles."""

    title: str
    caption: str
    columns: list[str]
    blocks: list[Block]


def number_cell(value: float, form: Format) -> Cell:
    """A number."""
    return Cell(form(value) if math.isfinite(value) else EMPTY)


def mean_cell(value: Estimate, form: Format) -> Cell:
    """A mean with its interval."""
    return number_cell(value.mean, form)._replace(note=interval(value, form))


def paired_cell(value: Estimate, no_effect: float, form: Format) -> Cell:
    """A paired difference or ratio with its interval, and whether that contains `no_effect`."""
    if value.n == 1:
        return Cell(form(value.mean), "(one seed)")
    remark = ""
    if value.side(no_effect) == 0:
        equal = form(value.low) == form(value.high) == form(no_effect)
        remark = "equal" if equal else "not significant"
    return mean_cell(value, form)._replace(remark=remark)


def reached_cell(costs: list[float], form: Format) -> Cell:
    """The mean cost over the seeds that reached an accuracy; NaN for those that did not."""
    reached = [cost for cost in costs if math.isfinite(cost)]
    if not reached:
        return Cell("not reached" if costs else EMPTY)
    note = "" if len(reached) == len(costs) else f"({len(reached)} of {len(costs)} reached it)"
    return Cell(form(estimate(reached).mean), note)


def interval(value: Estimate, form: Format) -> str:
    """An interval in brackets; empty for fewer than two seeds, or if it rounds to the mean."""
    if value.n < 2 or form(value.low) == form(value.high) == form(value.mean):
        return ""
    return f"[{form(value.low)}, {form(value.high)}]"


def seconds(value: float) -> str:
    """Seconds, with a decimal below 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def fraction(value: float) -> str:
    """A share in [0, 1] with four decimals."""
    return f"{value:.4f}"


def one_decimal(value: float) -> str:
    """A number with one decimal."""
    return f"{value:.1f}"


def two_decimals(value: float) -> str:
    """A number with two decimals."""
    return f"{value:.2f}"


def three_digits(value: float) -> str:
    """A number with three significant digits, or all before the decimal point."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def percent(value: float) -> str:
    """A share in percent."""
    return f"{value:.0%}"


def small_percent(value: float) -> str:
    """A share in percent with one decimal."""
    return f"{value:.1%}"


def points(value: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * value:+z.2f}"


def lost(value: float) -> str:
    """A loss of accuracy in percentage points: below 0 where something was won."""
    return f"{100 * value:z.2f}"
