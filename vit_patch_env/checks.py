"""Checks of what a user passes in: ValueErrors that name what was expected and what came."""

from collections.abc import Sequence
from numbers import Integral, Real


def check_interval(interval: str, **values: object) -> None:
    """Require every named value to be a number in an interval such as `(0, 1]` or `[1, inf)`.

    Raises:
        ValueError: "alpha must be in [0, 1], got 2".
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    for name, value in values.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise ValueError(f"{name} must be a number in {interval}, got {value!r}")
        number = float(value)
        above = low < number or (interval[0] == "[" and number == low)
        below = number < high or (interval[-1] == "]" and number == high)
        if not (above and below):
            raise ValueError(f"{name} must be in {interval}, got {value}")


def check_whole(interval: str, **values: object) -> None:
    """Require every named value to be a whole number in an interval.

    Raises:
        ValueError: "epochs must be a whole number in [1, inf), got 2.5".
    """
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{name} must be a whole number in {interval}, got {value!r}")
        check_interval(interval, **{name: value})


def check_choice(choices: Sequence[object], **values: object) -> None:
    """Require every named value to be one of the choices.

    Raises:
        ValueError: "precision must be one of auto, fp32, bf16, got 'fp8'".
    """
    for name, value in values.items():
        if value not in choices:
            expected = ", ".join(str(choice) for choice in choices)
            raise ValueError(f"{name} must be one of {expected}, got {value!r}")
