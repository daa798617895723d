"""The options that a command is resumed with: those saved, and what may change."""

from typing import Any

from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.options.flat import flat, same_run


def given_values(options: Any) -> dict[str, Any]:
    """The values that are given: on the command line, or in Python other than the defaults.

    Args:
        options: of a command that records what is `given`, with arguments of the environment.
    """
    defaults = flat(type(options)())
    # Defaults that follow from a given size or model are not given themselves.
    usual = {name: (value,) for name, value in defaults.items()}
    usual |= {name: (defaults[name], value) for name, value in options.env.adapted.items()}
    return {
        name: value
        for name, value in flat(options).items()
        if name in options.given or value not in usual[name]
    }


def given_changes(
    options: Any, saved: Any, run: str, besides: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The given values of those that may change when a command is resumed.

    Args:
        options: that it is resumed with.
        saved: that it was started with.
        run: what is resumed, in words.
        besides: names of values that are checked elsewhere.

    Raises:
        ArgumentError: for another value that differs from the saved one.
    """
    before, may_change = flat(saved), same_run(options)
    changes = {}
    for name, value in given_values(options).items():
        if name in may_change:
            changes[name] = value
        elif name not in besides and value != before[name]:
            raise ArgumentError(name, f"must be that of {run}, {before[name]}, got {value}")
    return changes
