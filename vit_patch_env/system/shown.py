"""Text from outside, such as file names, made safe to show in one line."""

import os

_LONGEST = 200


def escaped(text: str | os.PathLike[str]) -> str:
    r"""The text in one line, with control characters and bytes that are no text escaped as `\x1b`.

    Args:
        text: such as a path, or another library's error message; long text is shortened.
    """
    shown = "".join(
        character if character.isprintable() else repr(character)[1:-1]
        for character in os.fspath(text)
    )
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ..."
