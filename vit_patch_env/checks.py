"""Checks of what a user passes in: ValueErrors that name what was expected and what came."""

import math
from collections.abc import Hashable, Sequence
from numbers import Integral, Real


def shown(value: object) -> str:
    """A value in one line of a message, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a whole number of thousands of digits, an object that is none of ours
        text = f"a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:90]} ..."


def check_interval(interval: str, **values: object) -> None:
    """Require every named value to be a number in an interval such as `(0, 1]` or `[1, inf)`.

    Raises:
        ValueError: "alpha must be in [0, 1], got 2".
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    for name, value in values.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise ValueError(f"{name} must be a number in {interval}, got {shown(value)}")
        try:
            number = float(value)
        except OverflowError:  # a whole number beyond all floats
            number = math.inf if value > 0 else -math.inf  # type: ignore[operator]
        above = low < number or (interval[0] == "[" and number == low)
        below = number < high or (interval[-1] == "]" and number == high)
        if not (above and below):
            raise ValueError(f"{name} must be in {interval}, got {shown(value)}")


def check_whole(interval: str, **values: object) -> None:
    """Require every named value to be a whole number in an interval.

    Raises:
        ValueError: "epochs must be a whole number in [1, inf), got 2.5".
    """
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{name} must be a whole number in {interval}, got {shown(value)}")
        check_interval(interval, **{name: value})


def check_choice(choices: Sequence[object], **values: object) -> None:
    """Require every named value to be one of the choices.

    Raises:
        ValueError: "precision must be one of auto, fp32, bf16, got 'fp8'".
    """
    for name, value in values.items():
        # Arrays, which compare element by element, and other containers are never a choice.
        if not isinstance(value, Hashable) or value not in choices:
            expected = ", ".join(str(choice) for choice in choices)
            raise ValueError(f"{name} must be one of {expected}, got {shown(value)}")
