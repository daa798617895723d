"""Names of class folders: those of the classes, where they can be names of files."""

import itertools
import unicodedata
from collections.abc import Sequence

from vit_patch_env.data.listing import is_passed_over

_UNSAFE = frozenset('/\\:*?"<>|%')
"""What some file system does not take in a name, and the sign that stands for it."""

_LONGEST = 200
"""Bytes of a name, of which file systems take 255."""


def folder_names(classes: Sequence[str]) -> list[str]:
    """A folder's name for each class, in their order.

    Characters that names of files cannot have on every system, or that are not printable, become
    their bytes as in a URL: "a/b" is "a%2Fb". So do dots where they would hide a folder, or be left
    out of its name. No two are the same to a file system that ignores case.
    """
    names: list[str] = []
    taken: set[str] = set()
    for name in classes:
        safe = _safe(name)
        numbered = (f"{safe}%{number}" for number in itertools.count(2))
        found = next(one for one in itertools.chain([safe], numbered) if _key(one) not in taken)
        taken.add(_key(found))
        names.append(found)
    return names


def _safe(name: str) -> str:
    """A name that is taken, and that listing a folder of images does not pass over."""
    text = "".join(one if _is_plain(one) else _as_bytes(one) for one in name) or "%"
    text = text.encode()[:_LONGEST].decode(errors="ignore")
    if is_passed_over(text):
        text = _as_bytes(text[0]) + text[1:]
    if text[-1] in ". ":
        text = text[:-1] + _as_bytes(text[-1])
    return text


def _is_plain(character: str) -> bool:
    return character.isprintable() and character not in _UNSAFE


def _as_bytes(character: str) -> str:
    """The bytes of a character in UTF-8, or the byte that it stands for in a file's name."""
    of_file = "\udc80" <= character <= "\udcff"
    encoded = character.encode(errors="surrogateescape" if of_file else "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in encoded)


def _key(name: str) -> str:
    """The same for names that a file system may take for one."""
    return unicodedata.normalize("NFC", name).casefold()
