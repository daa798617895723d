"""Arguments that are declared once, as fields of a dataclass.

    @arguments
    class EnvConfig:
        epochs: Annotated[int, Interval(ge=1), Doc("passes over the training images")] = 20

From such a declaration come the check of every value, the signature of what takes them
(`takes`), the options of the command line, files and back (`from_json`), what may differ when a run
is resumed (`SAME_RUN`) and the tables of the documentation (`declared`).
"""

import difflib
import inspect
import json
from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from functools import cache, wraps
from typing import (
    Annotated,
    Any,
    Concatenate,
    Final,
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
"""Of an argument that does not change the course of a run: a resumed run may have another."""

PYTHON_ONLY: Final = Mark("Python only")
"""Of an argument that a command line has no use for."""

POSITIONAL: Final = Mark("positional")
"""Of an argument that a command line takes without its name."""


class OrObject(NamedTuple):
    """Marks an argument that also takes objects, which no file holds; their user checks them.

    Attributes:
        what: such as "an ImageData".
    """

    what: str


class Argument(NamedTuple):
    """What is declared of an argument.

    Attributes:
        name: as in Python.
        annotation: type and range.
        default: None for a group of arguments, too.
        doc: one line.
        changes_run: whether another value would change the course of a run.
    """

    name: str
    annotation: Any
    default: Any
    doc: str
    changes_run: bool

    @property
    def expected(self) -> str:
        """The values that it takes, in words."""
        objects = [data.what for data in _metadata(self.annotation) if isinstance(data, OrObject)]
        return " or ".join((describe(self.annotation), *objects))


@dataclass_transform(frozen_default=True, kw_only_default=True)
def arguments(kind: type[Config]) -> type[Config]:
    """Make a class a frozen dataclass of keyword-only fields whose values are checked.

    A class that declares `check(self)` has it called where every single value is valid, for what
    depends on several of them.
    """
    kind.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]
    kind.__post_init__ = _check  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(kind)


def _check(config: Any) -> None:
    for argument in declared(config.__class__):
        value = getattr(config, argument.name)
        takes_objects = any(isinstance(data, OrObject) for data in _metadata(argument.annotation))
        if is_dataclass(value) or (takes_objects and not isinstance(value, str)):
            continue
        valid = check(argument.annotation, **{argument.name: value})
        object.__setattr__(config, argument.name, valid)
    if hasattr(config, "check"):
        config.check()


@cache
def declared(kind: Any) -> tuple[Argument, ...]:
    """The arguments that a class of them declares, in order."""
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
    """Let a method that is called with a configuration take its arguments instead.

    The method's signature is the configuration's, for editors, type checkers and `help`.
    """

    def decorate(
        method: Callable[[Owner, Config], None],
    ) -> Callable[Concatenate[Owner, P], None]:
        signature = inspect.signature(kind)

        @wraps(method)
        def taking(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> None:
            for name in kwargs.keys() - signature.parameters.keys():
                close = difflib.get_close_matches(name, signature.parameters, n=1)
                hint = "".join(f", did you mean {one}?" for one in close)
                raise TypeError(f"{type(self).__name__} has no argument {name}{hint}")
            method(self, kind(*args, **kwargs))

        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        parameters = [own, *signature.parameters.values()]
        taking.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        taking.__annotations__ = {}
        return taking

    return decorate


def to_json(config: Any) -> dict[str, Any]:
    """The values as JSON holds them."""
    return asdict(config)


def from_json(kind: type[Config], values: Any) -> Config:
    """A configuration from what JSON held; arguments that are not given have their defaults.

    Raises:
        ArgumentError: naming an argument that is unknown, or whose value is not valid.
    """
    try:
        config: Config = _adapter(kind).validate_json(json.dumps(values))  # type: ignore[arg-type]
    except ValidationError as error:
        raise _argument_error(kind, error) from error
    return config


def _argument_error(kind: Any, error: ValidationError) -> ArgumentError:
    """The error in our words, with the argument's name among its group's: "env.epochs"."""
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
