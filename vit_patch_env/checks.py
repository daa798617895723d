"""Checks of user input: `InputError`s that state what was expected and what was given.

pydantic checks types and ranges; the messages are our own, in one line.
"""

import os
import re
import sys
import types
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import numpy as np
from annotated_types import Interval, MultipleOf
from pydantic import ConfigDict, TypeAdapter, ValidationError

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)

Count = Annotated[int, Interval(ge=1, le=10**9)]
"""A number of things, of which products still are 64-bit integers."""

FromZero = Annotated[int, Interval(ge=0, le=10**9)]
"""The same, or none."""

LAYERS = Interval(ge=1, le=1000)
"""Of a ViT."""

Side = Annotated[int, Interval(ge=1, le=16384)]
"""Height or width of images, in pixels."""

Share = Annotated[float, Interval(gt=0, le=1)]
"""In (0, 1]."""

InnerShare = Annotated[float, Interval(gt=0, lt=1)]
"""In (0, 1)."""


class _Path(NamedTuple):
    """Marks a text that is a path, which must not be empty."""


PATH = _Path()
"""Marks a text that is a path, which must not be empty."""

_OUT_OF_RANGE = {
    "greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number",
}  # fmt: skip
"""pydantic's names of the errors for numbers outside a range."""

_FROM_TEXT: dict[Any, Callable[[str], Any]] = {
    int: int,
    float: float,
    bool: {"False": False, "True": True}.__getitem__,
}

_LONGEST = 1023
"""Bits of the largest integers that floats reach."""

_MESSAGE_LENGTH = 2000
"""Letters of a message; longer ones are truncated in the middle."""

_NAMES = {int: "an integer", float: "a number", str: "text", types.NoneType: "None"}


_OPEN, _CLOSE = "\x0e", "\x0f"
"""Around the names of arguments in a message: control characters, which `shown` escapes."""

_NAMED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")


_PLURALS = {
    "file that is no image": "files that are no images",
    "folder reached twice by links": "folders reached twice by links",
    "image outside class folders": "images outside class folders",
    "image without a row": "images without a row",
    "row that repeats a file": "rows that repeat a file",
}
"""Of nouns that more than an ending is needed for."""


def named(argument: str) -> str:
    """The name of an argument within an `InputError`'s message or an `InputWarning`'s.

    In Python it is shown as it is, on the command line as the option.

    Args:
        argument: its name, as in Python: `patch_size`, `dqn.tau`.
    """
    return f"{_OPEN}{argument}{_CLOSE}"


def with_names(message: str, shown_as: Callable[[str], str] = str) -> str:
    """A message with the names that `named` marks in it shown by a function."""
    return _NAMED.sub(lambda found: shown_as(found[1]), message)


class _NamesArguments(Exception):  # noqa: N818  (a mixin)
    """The message of an exception or a warning, in which `named` marks the names of arguments."""

    def __init__(self, *args: object) -> None:
        self.marked = str(args[0]) if args else ""
        super().__init__(*(with_names(one) if isinstance(one, str) else one for one in args))

    def text(self, shown_as: Callable[[str], str]) -> str:
        """The message, with the names of arguments shown by a function."""
        return with_names(self.marked, shown_as)


class InputError(_NamesArguments, ValueError):
    """A user's mistake or damaged input, in one line: what was expected and what was given.

    The command line prints it without a traceback. Any other ValueError is a bug there.

    Args:
        message: in words; lines are joined and a long one is truncated, as files may contain texts
            of any length.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_bounded(message))


class InputWarning(_NamesArguments, UserWarning):
    """A warning about what the user asks for, in one line."""


class ArgumentError(InputError):
    """An invalid value of an argument.

    Args:
        name: of the argument, as in Python; or another such error, to copy it.
        problem: what was expected and what was given, such as "must be in [0, 1], got 2".
    """

    name: str
    _problem: str

    def __init__(self, name: "str | ArgumentError", problem: str = "") -> None:
        if isinstance(name, ArgumentError):  # as Gymnasium raises an error of another process
            self.name, self._problem = name.name, name._problem
        else:
            self.name, self._problem = _bounded(name), _bounded(problem)
        self.problem = with_names(self._problem)
        super().__init__(f"{named(self.name)} {self._problem}")

    def __reduce__(self) -> tuple[Any, ...]:  # so that it can be pickled
        return type(self), (self.name, self._problem)

    def within(self, group: str) -> "ArgumentError":
        """The same error of an argument of a group: `tau` becomes `dqn.tau`."""
        problem = with_names(self._problem, lambda name: named(f"{group}.{name}"))
        return ArgumentError(f"{group}.{self.name}", problem)


def shown(value: object) -> str:
    """A value's repr in one line, truncated if it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer of thousands of digits, or a user's object whose repr fails
        text = f"a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:90]} ..."


def _bounded(message: str) -> str:
    """A message in one line of bounded length."""
    if "\n" in message or "\r" in message:
        message = " ".join(message.split())
    if len(message) <= _MESSAGE_LENGTH:
        return message
    message = with_names(message)
    return f"{message[: _MESSAGE_LENGTH // 2]} ... {message[-_MESSAGE_LENGTH // 4 :]}"


def counted(number: Any, noun: str) -> str:
    """A number with its noun: "1 epoch", "3,136 patches", "2 classes".

    Args:
        number: of them, an integer.
        noun: in the singular; its plural ends in "s" or "es" or is in `_PLURALS`.
    """
    ending = "es" if noun.endswith(("s", "x", "tch", "sh")) else "s"
    shown_number = f"{number:,}" if isinstance(number, int) else str(number)
    return f"{shown_number} {noun if number == 1 else _PLURALS.get(noun, noun + ending)}"


def plain(value: Any) -> Any:
    """A NumPy scalar as a Python number; any other value unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def as_text(value: object) -> object:
    """A path or a device as the text that names it; any other value unchanged."""
    torch = sys.modules.get("torch")  # not imported here, as it takes seconds
    if torch is not None and isinstance(value, torch.device):
        return str(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def check(annotation: Any, **values: object) -> Any:
    """Require every named value to be of a type and, if the annotation has one, in its range.

    Where text is expected, a path or a `torch.device` is taken as its text.

    Args:
        annotation: such as `Annotated[int, Interval(ge=1)]`, `Literal["a", "b"]` or `str | None`.
        values: by the names that the user knows.

    Returns:
        The last value, as Python's own type.

    Raises:
        ArgumentError: "alpha must be in [0, 1], got 2".
    """
    valid = None
    for name, value in values.items():
        if isinstance(value, list | tuple) and takes_list(annotation):  # lists as from JSON
            value = tuple(map(plain, value))
        if str in _kinds(annotation)[0]:
            value = as_text(value)
        try:
            valid = _adapter(annotation).validate_python(plain(value))
        except ValidationError as error:
            raise ArgumentError(name, problem(annotation, error)) from error
        if isinstance(valid, int) and valid.bit_length() > _LONGEST:
            raise ArgumentError(name, f"must be {describe(annotation)}, got {shown(value)}")
        if valid == "" and _is_path(_kinds(annotation)[1]):
            raise ArgumentError(name, f"must be {describe(annotation)}, got ''")
    return valid


def check_utf8(**values: str | None) -> None:
    r"""Require every named text to be one that can be saved; names of files may be of any bytes.

    Raises:
        ArgumentError: "out must be text in UTF-8, got '\udcff'".
    """
    for name, value in values.items():
        try:
            (value or "").encode()
        except UnicodeEncodeError as error:
            raise ArgumentError(name, f"must be text in UTF-8, got {shown(value)}") from error


def from_text(annotation: Any, text: Any) -> Any:
    """The value that a text, or a tuple of texts, represents; the text itself if there is none.

    Args:
        annotation: type of the value; `check` then verifies it.
        text: such as "3", "0.5" or "None".
    """
    kinds, _ = _kinds(annotation)
    if isinstance(text, tuple):
        if text == ("None",) and types.NoneType in kinds:
            return None
        if len(text) == 1 and any(text[0] in _choices(kind) for kind in kinds):
            return text[0]
        if len(text) == 1 and not needs_list(annotation):
            return from_text(annotation, text[0])
        item = next(get_args(kind)[0] for kind in kinds if get_origin(kind) is tuple)
        return tuple(from_text(item, one) for one in text)
    if text == "None" and types.NoneType in kinds:
        return None
    for kind in kinds:
        plain_kind = _kinds(kind)[0][0]
        with suppress(KeyError, ValueError):
            if plain_kind in _FROM_TEXT:
                return _FROM_TEXT[plain_kind](text)
    return text


def takes_list(annotation: Any) -> bool:
    """Whether an annotation allows a tuple."""
    return any(get_origin(kind) is tuple for kind in _kinds(annotation)[0])


def needs_list(annotation: Any) -> bool:
    """Whether an annotation allows nothing but a tuple and None."""
    kinds = [kind for kind in _kinds(annotation)[0] if kind is not types.NoneType]
    return all(get_origin(kind) is tuple for kind in kinds)


def check_integer(ge: int | None = None, le: int | None = None, /, **values: object) -> None:
    """Require every named value to be an integer, at least `ge` and at most `le`.

    Raises:
        ArgumentError: "epochs must be an integer in [1, 10^9], got 2.5".
    """
    check(Annotated[int, Interval(ge=ge, le=le)], **values)


def check_choice(choices: Sequence[object], **values: object) -> None:
    """Require every named value to be one of the choices.

    Raises:
        ArgumentError: "precision must be one of auto, fp32, bf16, fp16, got 'fp8'".
    """
    for name, value in values.items():
        # Arrays, which compare element by element, and other containers are never valid.
        if not isinstance(value, Hashable) or value not in choices:
            raise ArgumentError(name, f"must be one of {_listed(choices)}, got {shown(value)}")


def problem(annotation: Any, error: ValidationError) -> str:
    """The problem with a value that pydantic rejected, as in `ArgumentError`."""
    first = error.errors()[0]
    metadata = _kinds(annotation)[1]
    expected = describe(annotation)
    if first["type"] == "multiple_of":
        expected = f"divisible by {_multiple(metadata)}"
    elif first["type"] in _OUT_OF_RANGE and _interval(metadata):
        expected = f"in {_interval(metadata)}"
    return f"must be {expected}, got {shown(first['input'])}"


def describe(annotation: Any) -> str:
    """The values that an annotation allows: "an integer in [1, inf) or None"."""
    kinds, metadata = _kinds(annotation)
    choices = [choice for kind in kinds for choice in _choices(kind)]
    if choices and all(_choices(kind) or kind is types.NoneType for kind in kinds):
        return f"one of {_listed([*choices, *([None] if types.NoneType in kinds else [])])}"
    words = []
    for kind in kinds:
        if kind is int and float in kinds:  # which an integer is as well
            continue
        if get_origin(kind) is Annotated:  # one with a range of its own
            words.append(describe(kind))
            continue
        word = _name(kind, metadata) or _listed(_choices(kind)) or _listed_kind(kind, kinds)
        if kind in (int, float):
            multiple, inside = _multiple(metadata), _interval(metadata)
            word += f" divisible by {multiple}" if multiple else ""
            word += f" in {inside}" if inside else ""
        if get_origin(kind) is tuple and kind is not kinds[-1]:
            word += ","  # as "or" would continue the values of the list
        words.append(word)
    return " or ".join(words)


def _kinds(annotation: Any) -> tuple[list[Any], tuple[Any, ...]]:
    """The types in an annotation's union, None last, and its metadata."""
    metadata: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *rest = get_args(annotation)
        metadata = tuple(rest)
    union = get_origin(annotation) in (Union, types.UnionType)
    kinds = list(get_args(annotation)) if union else [annotation]
    return sorted(kinds, key=lambda kind: kind is types.NoneType), metadata


def _name(kind: Any, metadata: tuple[Any, ...]) -> str | None:
    """A type in words; None for one that has none."""
    if kind is str and _is_path(metadata):
        return "a path"
    return _NAMES.get(kind)


def _is_path(metadata: tuple[Any, ...]) -> bool:
    return any(isinstance(data, _Path) for data in metadata)


def _listed_kind(kind: Any, kinds: Sequence[Any]) -> str:
    """A tuple in words: "a list, each an integer in [1, inf)"; after a number, "2 of them".

    Args:
        kind: the tuple.
        kinds: those that it stands among.
    """
    if get_origin(kind) is not tuple:
        return str(kind)
    item, *others = get_args(kind)
    if others == [...]:
        return f"a list, each {describe(item)}"
    n_values = 1 + len(others)
    return f"{n_values} of them" if item in kinds else f"{n_values} values, each {describe(item)}"


def _choices(kind: Any) -> tuple[Any, ...]:
    """The values of a Literal or of bool; empty for other types."""
    if kind is bool:
        return (False, True)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _listed(choices: Sequence[object]) -> str:
    return ", ".join(str(choice) for choice in choices)


def _interval(metadata: tuple[Any, ...]) -> str:
    """The range in brackets, such as "(0, 1]"; empty without a range."""
    for data in metadata:
        if isinstance(data, Interval):
            low = f"({_bound(data.gt, '-inf')}" if data.ge is None else f"[{data.ge}"
            high = f"{_bound(data.lt, 'inf')})" if data.le is None else f"{_short(data.le)}]"
            return f"{low}, {high}"
    return ""


def _short(value: object) -> str:
    """A number, as a power of ten where it is a large one."""
    digits = str(value)
    return f"10^{len(digits) - 1}" if re.fullmatch("10{6,}", digits) else digits


def _bound(value: object, none: str) -> str:
    return none if value is None else str(value)


def _multiple(metadata: tuple[Any, ...]) -> Any:
    return next((data.multiple_of for data in metadata if isinstance(data, MultipleOf)), None)


@lru_cache(256)  # bounds may depend on other values
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=_STRICT)
