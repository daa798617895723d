"""Text from outside as it is shown: one line, safe for a terminal.

`escaping.py` has what HTML, Markdown and plots need in addition.
"""

import os
from collections.abc import Iterable

_LONGEST = 200
"""Characters of the longest name that is shown in full."""

_LONGEST_LINE = 10_000
"""Characters of the longest line, such as a message with several names, or a command."""

_N_LISTED = 5
"""Names of a list that are shown."""

_BYTES = range(0xDC80, 0xDD00)
"""What Python decodes the bytes of names to that are not in the file system's encoding."""


def escaped(text: str | os.PathLike[str], longest: int = _LONGEST) -> str:
    r"""A name in one line, safe for a terminal.

    Printable characters of any language remain. All others are escaped as in Python: control
    characters such as `\n` and `\x1b`, bidirectional controls (`\u202e`), and bytes that could not
    be decoded (`\xff`). The middle of a name that is longer becomes `...`.

    Args:
        text: a path, or any text, such as an error's.
        longest: number of characters that come back at most, from 3.
    """
    text = os.fsdecode(text)
    if text.isprintable() and len(text) <= longest:
        return text
    if len(text) <= longest:
        whole = "".join(map(_escaped, text))
        if len(whole) <= longest:
            return whole
    half = (longest - len("...")) // 2
    start = _within(map(_escaped, text), half)
    end = _within(map(_escaped, reversed(text)), half)
    return "".join((*start, "...", *reversed(end)))


def escaped_line(text: object) -> str:
    """A line that is written: a sentence or a command with such names, escaped as they are.

    Args:
        text: the line, or what is shown as its `str`. Of one that is longer than 10,000 characters
            the middle becomes `...`.
    """
    return escaped(str(text), _LONGEST_LINE)


def listed(names: Iterable[object]) -> str:
    """The first names in their order, escaped, in one line: "a, b, c, d, e and 7 more".

    Args:
        names: texts, or what is shown as its `str`; empty text for none.
    """
    texts = [str(name) for name in names]
    n_more = len(texts) - _N_LISTED
    more = f" and {n_more:,} more" if n_more > 0 else ""
    return ", ".join(map(escaped, texts[:_N_LISTED])) + more


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if ord(character) in _BYTES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _within(pieces: Iterable[str], length: int) -> list[str]:
    """The first pieces, as many as have at most `length` characters together."""
    found = []
    for piece in pieces:
        length -= len(piece)
        if length < 0:
            break
        found.append(piece)
    return found
