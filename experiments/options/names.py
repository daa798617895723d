"""Names of arguments as they are typed on the command line."""

import inspect
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from vit_patch_env.arguments import POSITIONAL, PYTHON_ONLY, Argument, declared
from vit_patch_env.experiments.options import commands

FLAT_GROUPS = ("env",)
"""Groups whose arguments have no prefix on the command line."""

_KINDS: tuple[Any, ...] = tuple(
    kind
    for _, kind in inspect.getmembers(commands, inspect.isclass)
    if kind.__module__ == commands.__name__
)


def option_name(argument: str) -> str:
    """The option that sets an argument.

    Args:
        argument: its name in Python: `image_size`, `env.image_size`, `dqn.tau`, `run`.

    Returns:
        `--image-size`, `--image-size`, `--dqn.tau`, `RUN`: options of the environment have no
        prefix, and positional ones no name. A name that is not an option's stays as it is.
    """
    return _options().get(argument, argument)


def typed_name(argument: Argument, prefix: str = "") -> str:
    """The words of `option_name` for an argument in a group with that prefix, such as "dqn."."""
    if is_positional(argument):
        return argument.name.upper()
    return f"--{prefix}{argument.name}".replace("_", "-")


def is_positional(argument: Argument) -> bool:
    """Whether an argument is given by its position on the command line."""
    return POSITIONAL in getattr(argument.annotation, "__metadata__", ())


def on_command_line(kind: Any) -> list[tuple[str, Argument]]:
    """The arguments of a command as they are typed, those of groups included."""
    found = []
    for argument in declared(kind):
        if PYTHON_ONLY in getattr(argument.annotation, "__metadata__", ()):
            continue
        if is_dataclass(argument.annotation):
            prefix = "" if argument.name in FLAT_GROUPS else f"{argument.name}."
            inner: Any = argument.annotation
            found += [
                (typed_name(one, prefix), one)
                for one in declared(inner)
                if PYTHON_ONLY not in getattr(one.annotation, "__metadata__", ())
            ]
        else:
            found.append((typed_name(argument), argument))
    return found


@cache
def _options() -> dict[str, str]:
    """All options by the names of their arguments, which begin with that of a group."""
    found: dict[str, str] = {}
    for kind in _KINDS:
        groups = [one.name for one in declared(kind) if is_dataclass(one.annotation)]
        for typed, argument in on_command_line(kind):
            name = typed.removeprefix("--").replace("-", "_")
            name = argument.name if is_positional(argument) else name
            found |= {name: typed, **{f"{group}.{name}": typed for group in FLAT_GROUPS}}
        found |= {group: f"--{group}" for group in groups if group not in FLAT_GROUPS}
    return found
