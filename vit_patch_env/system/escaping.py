"""Text from outside, escaped for what it is written to: HTML, Markdown, or a plot.

Titles, commands, paths, names of machines and errors' texts may hold anything. Each function makes
them safe for a terminal too, as `shown.py` does, so that a file can be shown with `cat`.
"""

import os
import re
from collections.abc import Sequence
from urllib.parse import quote

from vit_patch_env.system.shown import escaped, escaped_line

_LONGEST_LABEL = 40
"""Characters of the longest label of a plot; longer ones would leave no space for the plot."""

_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;"})

_SYNTAX = re.compile(
    r"""
      (?P<kept>\[[-+]?\d[-+.,%\d\ ]{0,40}\](?![(\[:]))  # an interval of numbers is no link
    | [`*~$|\[\]]                   # code, emphasis, struck-out text, formulas, cells, links
    | <                             # elements and comments
    | &(?=\#?\w+;)                  # character references
    | \\(?=[!-/:-@\[-`{-~]|$)       # escapes, and a break at the end of a line
    | (?<!\w)_+ | _++(?![^\W_])     # emphasis; not between two letters or digits
    | :(?=//) | (?<=www)\.          # addresses that become links by themselves
    | \#(?=\#*$)                    # the end of a heading
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""What Markdown (CommonMark and GitHub's) would read as more than text, within a line."""

_REFERENCES = {"<": "&lt;", "&": "&amp;"}
"""Escaped like this, since `\\<` would leave the markers of a README's section as they are."""

_BLOCK = re.compile(r"^(?:(\d{1,9})(?=[.)](?:\s|$))|(?=[-+#>=]))")
"""What begins a list, heading, quotation or line at the beginning of a line."""


def html(text: object) -> str:
    """Text for HTML, between tags or as an attribute's value in quotes.

    Args:
        text: a line, or what is shown as its `str`.
    """
    return escaped_line(text).translate(_HTML)


def markdown(text: object, *, begins_line: bool = False) -> str:
    """Text for a line of Markdown, where it is rendered as the same text and nothing else.

    Characters that are not read as syntax where they stand remain as they are, so that ordinary
    text can be read in the source. It may stand in a table's cell, a heading or a list's item.

    Args:
        text: a line, or what is shown as its `str`. Spaces around it are removed.
        begins_line: whether it is the first of a line or of a list's item, where more is syntax.
    """
    line = _SYNTAX.sub(_escaped_syntax, escaped_line(text).strip())
    return _BLOCK.sub(r"\1\\", line) if begins_line else line


def code_block(lines: Sequence[str], language: str) -> str:
    """Commands as a fenced block of Markdown, from which they can be copied.

    Args:
        lines: the commands, one a line.
        language: of the block: `sh`.
    """
    # A README's section must not contain the comment that ends it. Within single quotes, in which
    # shlex puts it, and without quotes, a shell reads both alike.
    code = "\n".join(escaped_line(line) for line in lines).replace("<!--", "<!-''-")
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def link_target(path: str | os.PathLike[str]) -> str:
    """A relative path as the target of a link in Markdown or HTML."""
    return quote(os.fsencode(path))


def label(text: object, longest: int = _LONGEST_LABEL) -> str:
    r"""Text for a plot, where matplotlib would read `$...$` as a formula.

    Args:
        text: a line, or what is shown as its `str`.
        longest: number of characters that are shown; of a longer text the middle becomes `...`.
    """
    return escaped(str(text), longest).replace("$", r"\$")


def _escaped_syntax(match: re.Match[str]) -> str:
    found = match[0]
    if match["kept"]:
        return found
    return _REFERENCES.get(found) or "".join(f"\\{character}" for character in found)
