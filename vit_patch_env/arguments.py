"""Arguments that are declared once, as fields of a dataclass.

    @arguments
    class EnvConfig:
        epochs: Annotated[int, Interval(ge=1), Doc("passes over the training images")] = 20

Everything else follows from the declaration: the check of every value, signatures (`takes`),
command-line options, reading and writing JSON (`from_json`, `to_json`), which values may change
when a run is resumed (`SAME_RUN`), and which `vit-patch tune` searches (`Search`).
"""

import difflib
import inspect
import json
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache, wraps
from typing import (
    Annotated,
    Any,
    Concatenate,
    Final,
    Literal,
    NamedTuple,
    ParamSpec,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import Doc

from vit_patch_env.checks import ArgumentError, check, describe, problem, shown

P = ParamSpec("P")
Owner = TypeVar("Owner")
Config = TypeVar("Config")


class Mark(NamedTuple):
    """A property of an argument."""

    name: str


SAME_RUN: Final = Mark("same run")
"""Marks an argument that does not affect a run's results: it may change when a run is resumed."""

PYTHON_ONLY: Final = Mark("Python only")
"""Marks an argument that is not available on the command line."""

POSITIONAL: Final = Mark("positional")
"""Marks an argument that is positional on the command line."""


class OrObject(NamedTuple):
    """Marks an argument that also accepts objects, which are not checked here and cannot be saved.

    Attributes:
        description: of the objects, such as "an ImageData".
    """

    description: str


class Alias(NamedTuple):
    """Marks an argument that `takes` also accepts by another name.

    Attributes:
        alias: the other name, for callers to whom the first one means something else.
    """

    alias: str


class Search(NamedTuple):
    """Marks an argument whose value `vit-patch tune` searches.

    Attributes:
        low: smallest value, unless the argument is a choice, all of whose values are tried.
        high: largest value.
        log: whether it is searched on a logarithmic scale.
        of: what `low` and `high` are shares of: the steps of a run, or the patches of an image.
        reward: the only reward that uses the value.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    of: Literal["steps", "patches"] | None = None
    reward: str | None = None


class Argument(NamedTuple):
    """The declaration of an argument.

    Attributes:
        name: as in Python.
        annotation: type and range.
        default: default value; None for a group of arguments.
        doc: description in one line.
        changes_run: whether the value affects the results of a run.
    """

    name: str
    annotation: Any
    default: Any
    doc: str
    changes_run: bool

    @property
    def expected(self) -> str:
        """The accepted values, in words."""
        objects = [
            data.description for data in _metadata(self.annotation) if isinstance(data, OrObject)
        ]
        return " or ".join((describe(self.annotation), *objects))

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of one that has a few; empty for a number."""
        kind = get_args(self.annotation)[0]
        return get_args(kind) if get_origin(kind) is Literal else ()

    @property
    def is_integer(self) -> bool:
        """Whether it is an integer, or one beside other values."""
        kind = get_args(self.annotation)[0]
        return int in (kind, *get_args(kind))

    @property
    def search(self) -> Search | None:
        """How its value is searched; None if it is not."""
        return next((one for one in _metadata(self.annotation) if isinstance(one, Search)), None)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def arguments(kind: type[Config]) -> type[Config]:
    """Make a class a frozen dataclass of keyword-only fields whose values are checked.

    If the class defines `check(self)`, it is called once every single value is valid, to check
    values that depend on each other.
    """
    kind.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]
    kind.__post_init__ = _check  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(kind)


def _check(config: Any) -> None:
    for argument in declared(config.__class__):
        value = getattr(config, argument.name)
        takes_objects = any(isinstance(data, OrObject) for data in _metadata(argument.annotation))
        if takes_objects and not isinstance(value, str):
            continue
        if is_dataclass(argument.annotation):
            _check_group(argument.name, argument.annotation, value)
            continue
        valid = check(argument.annotation, **{argument.name: value})
        object.__setattr__(config, argument.name, valid)
    if hasattr(config, "check"):
        config.check()


def _check_group(name: str, kind: Any, value: object) -> None:
    if not isinstance(value, kind):
        raise ArgumentError(name, f"must be {kind.__name__}, got {shown(value)}")


@cache
def declared(kind: Any) -> tuple[Argument, ...]:
    """The arguments that a configuration class declares, in order."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(_argument(field, hints[field.name]) for field in fields(kind))


def _argument(field: Field[Any], annotation: Any) -> Argument:
    metadata = _metadata(annotation)
    docs = [data.documentation for data in metadata if isinstance(data, Doc)]
    default = None if field.default is MISSING else field.default
    return Argument(field.name, annotation, default, "".join(docs), SAME_RUN not in metadata)


def _metadata(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def takes(
    kind: Callable[P, Config],
) -> Callable[[Callable[[Owner, Config], None]], Callable[Concatenate[Owner, P], None]]:
    """Let a method that expects a configuration take the configuration's arguments instead.

    The method's signature is the configuration's, for editors, type checkers and `help`.
    """

    def decorate(
        method: Callable[[Owner, Config], None],
    ) -> Callable[Concatenate[Owner, P], None]:
        signature = inspect.signature(kind)

        @wraps(method)
        def wrapper(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> None:
            if args:
                raise TypeError(
                    f"{type(self).__name__} takes no positional arguments, got {len(args)}"
                )
            _resolve_aliases(kind, kwargs)
            for name in [name for name in kwargs if name not in signature.parameters]:
                close = difflib.get_close_matches(name, signature.parameters, n=1)
                hint = "".join(f", did you mean {one}?" for one in close)
                # In Python's words, by which TorchRL knows that it may leave the argument out.
                raise TypeError(
                    f"{type(self).__name__} got an unexpected keyword argument {name!r}{hint}"
                )
            method(self, kind(*args, **kwargs))

        self_parameter = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        parameters = [self_parameter, *signature.parameters.values()]
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {}
        return wrapper

    return decorate


def _resolve_aliases(kind: Any, kwargs: dict[str, Any]) -> None:
    """Replace other names of arguments by the first ones.

    Raises:
        ArgumentError: if a value is given by both names.
    """
    for argument in declared(kind):
        for data in _metadata(argument.annotation):
            if isinstance(data, Alias) and data.alias in kwargs:
                value = kwargs.pop(data.alias)
                if argument.name in kwargs:
                    raise ArgumentError(
                        data.alias,
                        f"must not be given with {argument.name}, which is the same, "
                        f"got {shown(value)}",
                    )
                kwargs[argument.name] = value


def to_json(config: Any) -> dict[str, Any]:
    """The values as JSON-compatible data, without those of Python only."""
    values: dict[str, Any] = {}
    for argument in declared(config.__class__):
        if PYTHON_ONLY not in _metadata(argument.annotation):
            value = getattr(config, argument.name)
            if isinstance(value, tuple):
                value = list(value)
            values[argument.name] = to_json(value) if is_dataclass(value) else value
    return values


def from_json(kind: type[Config], values: Any) -> Config:
    """A configuration from parsed JSON; missing arguments have their defaults.

    Raises:
        ArgumentError: naming an argument that is unknown, or whose value is not valid.
    """
    try:
        config: Config = _adapter(kind).validate_json(json.dumps(values))  # type: ignore[arg-type]
    except ValidationError as error:
        raise _argument_error(kind, error) from error
    return config


def _argument_error(kind: Any, error: ValidationError) -> ArgumentError:
    """Pydantic's error as ours, with the name of the argument's group: "env.epochs"."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ArgumentError):
        return cause
    names: list[str] = []
    for part in first["loc"]:
        names.append(str(part))
        annotation = {one.name: one.annotation for one in declared(kind)}.get(names[-1])
        if annotation is None:
            return ArgumentError(".".join(names), f"is not known, got {shown(first['input'])}")
        if not is_dataclass(annotation):
            return ArgumentError(".".join(names), problem(annotation, error))
        kind = annotation
    return ArgumentError(
        ".".join(names) or "options", f"must be an object, got {shown(first['input'])}"
    )


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
