"""Checks the words of a command line before they are parsed: each mistake in one line."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vit_patch_env.arguments import Argument
from vit_patch_env.checks import InputError, describe, needs_list, takes_list
from vit_patch_env.experiments.options.names import is_positional, on_command_line

_HELP = ("-h", "--help")


class _Words(NamedTuple):
    """The words of a command line after those that were read."""

    rest: list[str]

    def values(self, most: int | None) -> list[str]:
        """The next words, at most so many, up to an option."""
        n_values = 0
        while n_values < len(self.rest) and n_values != most:
            if _is_option(self.rest[n_values]):
                break
            n_values += 1
        found = self.rest[:n_values]
        del self.rest[:n_values]
        return found


def check_words(commands: Mapping[str, Any], args: list[str], prog: str) -> None:
    """Refuse words that are no command, option or value.

    Args:
        commands: the class of the options of each command, by name.
        args: the words after the program's name, of which the first is the command.
        prog: the program's name.

    Raises:
        InputError: naming the wrong word, and the nearest right one.
    """
    command, *rest = args
    if command in _HELP or command.startswith("--tyro-"):
        return
    if command not in commands:
        listed = f"{prog} must be followed by a command ({', '.join(commands)})"
        if _is_option(command):
            raise InputError(f"{listed}, got the option {command}")
        hint = _or(_nearest(command, commands))
        raise InputError(f"{command or repr(command)} is not a command{hint or f': {listed}'}")
    _check_command(f"{prog} {command}", commands[command], _Words(rest))


def _check_command(prog: str, kind: Any, words: _Words) -> None:
    """Check the words after a command."""
    options = dict(on_command_line(kind))
    positional = [name for name, one in options.items() if is_positional(one)]
    named = {name: one for name, one in options.items() if name not in positional}
    before, several = "", False
    while words.rest:
        word = words.rest.pop(0)
        if word in _HELP:
            return
        if word == "--":  # what follows are no options
            several |= any(takes_list(options[name].annotation) for name in positional)
            after = words.rest[len(positional) :]
            if after and not several:
                raise InputError(f"{prog} does not take the word {after[0] or repr(after[0])}")
            positional = positional[len(words.rest) :]
            break
        if _is_option(word):
            before = _check_option(prog, named, word, words)
        elif positional:
            several = takes_list(options[positional.pop(0)].annotation)
        elif not several:
            raise InputError(f"{prog} does not take the word {word or repr(word)}{before}")
    if positional:
        about = options[positional[0]]
        choices = ", ".join(map(str, about.choices))
        raise InputError(f"{prog} needs {positional[0]}: {choices or about.doc}")


def _check_option(prog: str, named: Mapping[str, Argument], word: str, words: _Words) -> str:
    """Check an option, and read its values; what to say of a word that follows."""
    given, equals, _ = word.partition("=")
    name = given.replace("_", "-")
    flags = {one.replace("--", "--no-", 1) for one, about in named.items() if _is_flag(about)}
    if name in flags or (name in named and _is_flag(named[name])):
        if equals:
            raise InputError(f"{given} takes no value, got {word}")
        return f" after {given}, which takes no value"
    if name not in named:
        raise InputError(f"{given} is not an option of {prog}{_or(_nearest(name, named))}")
    if equals:
        return ""
    annotation = named[name].annotation
    values = words.values(None if takes_list(annotation) else 1)
    if not values and not needs_list(annotation):  # a list may be empty
        following = f"the option {words.rest[0]}" if words.rest else "none"
        expected = describe(annotation)
        raise InputError(f"{given} needs a value, {expected}, got {following}")
    return ""


def _is_option(word: str) -> bool:
    """Whether a word is an option, and not a value such as -0.5 or -inf."""
    body = word.lstrip("-")
    numbers = ("inf", "infinity", "nan")
    return word.startswith("--") or (
        word.startswith("-") and body[:1].isalpha() and body.lower() not in numbers
    )


def _is_flag(argument: Argument) -> bool:
    """Whether an argument is given without a value."""
    return argument.annotation.__origin__ is bool


def _nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is meant: abbreviated, by initials, misspelt, or a part of it."""
    text = word.lstrip("-").lower()
    by_text = {one.lstrip("-"): one for one in sorted(known, key=len)}
    if not text:
        return None
    begins = (one for one in by_text if one.startswith(text))
    initials = (one for one in by_text if _initials(one) == text.replace("-", ""))
    misspelt = difflib.get_close_matches(text, by_text, n=1, cutoff=0.85)
    part = (one for one in by_text if text in one.replace(".", "-").split("-"))
    similar = difflib.get_close_matches(text, by_text, n=1)
    ways = (begins, initials, misspelt, part, similar)
    found = next((one for way in ways for one in way), None)
    return None if found is None else by_text[found]


def _initials(name: str) -> str:
    return "".join(part[:1] for part in name.replace(".", "-").split("-"))


def _or(nearest: str | None) -> str:
    return "" if nearest is None else f"; did you mean {nearest}?"
