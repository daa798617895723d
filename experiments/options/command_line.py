"""Parses a command line into options, according to their declarations.

tyro parses the arguments and prints the help. To tyro all values are texts, so that bad values are
reported by our own checks, with the same one-line message as in Python.
"""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import MISSING, field, is_dataclass, make_dataclass
from functools import cache
from inspect import getdoc
from typing import Annotated, Any, get_origin

import tyro

from vit_patch_env.arguments import PYTHON_ONLY, Argument, declared
from vit_patch_env.checks import (
    ArgumentError,
    InputError,
    check_utf8,
    describe,
    from_text,
    takes_list,
)
from vit_patch_env.experiments.options.names import FLAT_GROUPS, is_positional, typed_name
from vit_patch_env.experiments.options.words import check_words

_NO_BOX = dict.fromkeys(map(ord, "╭╮╰╯│─"))
"""Nothing, for the characters of boxes."""


def parse(commands: Mapping[str, tuple[type[Any], Any]], args: list[str], prog: str) -> Any:
    """The options of the command that is given by `args`.

    Prints the help and exits if that is asked for.

    Args:
        commands: by name, the class of the options and an instance that holds the defaults, or None
            for those of the class.
        args: the arguments after the program's name.
        prog: the program's name.

    Raises:
        InputError: naming a word that is not a command, an option or a value.
        ArgumentError: naming an option whose value is not valid.
    """
    texts: dict[str, Any] = {}
    kind: Any
    for name, (kind, defaults) in commands.items():
        given = name in args[:1]
        texts[name] = _text_class(kind, defaults) if given else _unused_class(kind)
    union: Any = None
    for name, one in texts.items():
        subcommand = Annotated[one, tyro.conf.subcommand(name)]  # type: ignore[valid-type]
        union = subcommand if union is None else union | subcommand
    check_words({name: kind for name, (kind, _) in commands.items()}, args, prog)
    parsed = _parsed(union, prog, args)
    name = next(name for name, one in texts.items() if isinstance(parsed, one))
    return _options(commands[name][0], parsed)


def _parsed(union: Any, prog: str, args: list[str]) -> Any:
    """What tyro parses the arguments to; its own messages, in boxes, become one line.

    Raises:
        InputError: if it cannot.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(union, prog=prog, args=args)
    except SystemExit as stop:
        if not stop.code:  # the help was shown
            raise
        raise InputError(" ".join(said.getvalue().translate(_NO_BOX).split())) from stop


@cache
def _text_class(kind: Any, defaults: Any) -> type[Any]:
    """A dataclass with the same arguments as texts, for tyro."""
    fields = []
    for argument in _on_command_line(kind):
        default = _default(kind, argument, defaults)
        fields.append((argument.name, *_text_field(argument, default)))
    texts = make_dataclass(kind.__name__, fields, frozen=True)
    texts.__doc__ = kind.__doc__
    return texts


@cache
def _unused_class(kind: Any) -> type[Any]:
    """A dataclass of a command that is not given, of which only the description is shown."""
    return make_dataclass(kind.__name__, (), namespace={"__doc__": kind.__doc__})


def _text_field(argument: Argument, default: Any) -> tuple[Any, Any]:
    """Type and default of an argument for tyro."""
    kind = get_origin(argument.annotation) is Annotated and argument.annotation.__origin__
    annotation: Any = argument.annotation
    if is_dataclass(argument.annotation):
        group = _text_class(annotation, default)
        # Else tyro looks for a comment in the class's source, which takes a quarter of its time.
        annotation = Annotated[group, tyro.conf.arg(help=getdoc(group))]
        if argument.name in FLAT_GROUPS:
            annotation = Annotated[annotation, tyro.conf.OmitArgPrefixes]
        return annotation, field(default_factory=group)
    if kind is bool:
        return Annotated[bool, tyro.conf.arg(help=argument.doc)], default
    if takes_list(argument.annotation):
        if is_positional(argument):
            word = tyro.conf.arg(help=argument.doc, metavar=typed_name(argument))
            return Annotated[tuple[str, ...], word, tyro.conf.Positional], field()
        texts = Annotated[tuple[str, ...], tyro.conf.arg(help=argument.doc)]
        return texts, tuple(map(str, default if isinstance(default, tuple) else (default,)))
    metavar = _metavar(argument.annotation)
    if is_positional(argument) and not argument.choices:
        metavar = typed_name(argument)
    text: Any = Annotated[str, tyro.conf.arg(help=argument.doc, metavar=metavar)]
    if is_positional(argument):
        return Annotated[text, tyro.conf.Positional], field()
    return text, str(default)


def _metavar(annotation: Any) -> str:
    """The values that an option takes: {epochs,flops,seconds}, or an interval."""
    words = describe(annotation)
    if words.startswith("one of "):
        return "{" + words.removeprefix("one of ").replace(", ", ",") + "}"
    short = {
        "an integer": "INT",
        "a number": "FLOAT",
        "text": "STR",
        "a path": "PATH",
        " or None": "|None",
    }
    for word, metavar in short.items():
        words = words.replace(word, metavar)
    return words


def _default(kind: Any, argument: Argument, defaults: Any) -> Any:
    if defaults is not None:
        value = getattr(defaults, argument.name)
        adapted = getattr(defaults, "adapted", {})
        # So that it adapts to the other values on the command line.
        is_adapted = argument.name in adapted and adapted[argument.name] == value
        return argument.default if is_adapted else value
    declaration = kind.__dataclass_fields__[argument.name]
    if declaration.default_factory is not MISSING:
        return declaration.default_factory()
    return argument.default


def _options(kind: Any, texts: Any) -> Any:
    """The options that the texts represent, checked."""
    values: dict[str, Any] = {}
    for argument in _on_command_line(kind):
        text = getattr(texts, argument.name)
        if is_dataclass(argument.annotation):
            try:
                values[argument.name] = _options(argument.annotation, text)
            except ArgumentError as error:
                if argument.name in FLAT_GROUPS:
                    raise
                raise error.within(argument.name) from error
        else:
            for one in text if isinstance(text, tuple) else (text,):
                check_utf8(**{argument.name: str(one)})
            values[argument.name] = from_text(argument.annotation, text)
    return kind(**values)


def _on_command_line(kind: Any) -> list[Argument]:
    return [
        one
        for one in declared(kind)
        if PYTHON_ONLY not in getattr(one.annotation, "__metadata__", ())
    ]
