"""Options as a flat dictionary, by their names on the command line."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

from vit_patch_env.arguments import PYTHON_ONLY, Argument, declared
from vit_patch_env.experiments.options.names import FLAT_GROUPS

Options = TypeVar("Options")


def flat(options: Any, groups: frozenset[str] | None = None) -> dict[str, Any]:
    """Every value by its name: `epochs` of the environment, `dqn.tau` of a group.

    Args:
        options: of a command.
        groups: those with a prefix that are included; None for all.
    """
    return {name: value for name, _, value in _flat(options) if _included(name, groups)}


def typed(options: Any, args: Sequence[str]) -> frozenset[str]:
    """Names of the values that a command line gives, which may be the defaults.

    Args:
        options: of the command.
        args: words of the command line that these options were parsed from.
    """
    words = {one[2:].partition("=")[0].replace("-", "_") for one in args if one[:2] == "--"}
    words |= {one.removeprefix("no_") for one in words}
    return frozenset(name for name, _, _ in _flat(options) if name in words)


def same_run(options: Any) -> frozenset[str]:
    """Names of the values that do not affect the results of a run."""
    return frozenset(name for name, one, _ in _flat(options) if not one.changes_run)


def replaced(options: Options, changes: Mapping[str, Any]) -> Options:
    """The options with other values, by their names in `flat`."""
    own: dict[str, Any] = {}
    kind: Any = type(options)
    for argument in declared(kind):
        value = getattr(options, argument.name)
        if is_dataclass(value):
            prefix = _prefix(argument)
            names = {prefix + one.name: one.name for one in declared(value.__class__)}
            inner = {names[name]: one for name, one in changes.items() if name in names}
            own[argument.name] = replaced(value, inner)
        elif argument.name in changes:
            own[argument.name] = changes[argument.name]
    return replace(options, **own)  # type: ignore[type-var]


def command(name: str, options: Any, defaults: Any, given: tuple[str, ...] = ()) -> str:
    """The shortest command that gives these options.

    Args:
        name: of the command.
        options: of the command.
        defaults: options whose values need not be given.
        given: names of values to include even if they are the defaults.
    """
    words = ["vit-patch", name]
    default_values = flat(defaults)
    if hasattr(options, "env"):  # defaults that follow from other values: from these ones
        usual = defaults.env.adapted
        default_values |= {
            one: value
            for one, value in options.env.adapted.items()
            if default_values[one] == usual[one]
        }
    for option, value in flat(options).items():
        if value == default_values[option] and option not in given:
            continue
        typed_option = f"--{option}".replace("_", "-")
        if isinstance(value, bool) and isinstance(default_values[option], bool):
            words.append(typed_option if value else f"--no-{typed_option[2:]}")
        else:
            words += [typed_option, *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def _flat(options: Any) -> Iterator[tuple[str, Argument, Any]]:
    for argument in declared(options.__class__):
        value = getattr(options, argument.name)
        if is_dataclass(value):
            for name, one, inner in _flat(value):
                yield _prefix(argument) + name, one, inner
        elif PYTHON_ONLY not in getattr(argument.annotation, "__metadata__", ()):
            yield argument.name, argument, value


def _prefix(group: Argument) -> str:
    return "" if group.name in FLAT_GROUPS else f"{group.name}."


def _included(name: str, groups: frozenset[str] | None) -> bool:
    group, dot, _ = name.partition(".")
    return not dot or groups is None or group in groups
