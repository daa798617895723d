"""Checks of what a user passes in: ValueErrors that name what was expected and what came."""

from collections.abc import Sequence


def check_interval(interval: str, **values: float) -> None:
    """Require every named value to lie in an interval such as `(0, 1]` or `[1, inf)`.

    Raises:
        ValueError: "alpha must be in [0, 1], got 2".
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    for name, value in values.items():
        above = low < value or (interval[0] == "[" and value == low)
        below = value < high or (interval[-1] == "]" and value == high)
        if not (above and below):
            raise ValueError(f"{name} must be in {interval}, got {value}")


def check_choice(choices: Sequence[object], **values: object) -> None:
    """Require every named value to be one of the choices.

    Raises:
        ValueError: "precision must be one of auto, fp32, bf16, got 'fp8'".
    """
    for name, value in values.items():
        if value not in choices:
            expected = ", ".join(str(choice) for choice in choices)
            raise ValueError(f"{name} must be one of {expected}, got {value!r}")
