"""Docstrings of Python's standard library: real texts that every Python has, without a network."""

import ast
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from vit_patch_env.checks import InputError, check_integer, counted
from vit_patch_env.data.texts import TextData, from_texts, words
from vit_patch_env.system.shown import escaped

PACKAGES = (
    "asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml",
)  # fmt: skip
"""Packages with many docstrings that all Python versions have."""

LEAST_WORDS = 12
"""Shorter docstrings are left out: few of them say what they are about."""

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def load_docstrings(
    *,
    n_tokens: int = 32,
    n_words: int = 2000,
    packages: Sequence[str] = PACKAGES,
    train_fraction: float = 1.0,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> TextData:
    """Docstrings of packages of Python's standard library; the class is the package.

    They are read from the source files, which are not imported, and are the same for the same
    version of Python. Docstrings of fewer than 12 words and repeated ones are left out.

    Args:
        n_tokens: tokens of a text, see `from_texts`.
        n_words: words in the vocabulary, at most.
        packages: of the standard library.
        train_fraction: as of `from_texts`.
        val_fraction: as of `from_texts`.
        seed: of the splits.

    Raises:
        ValueError: as `from_texts` does, or if the source files are not there.
    """
    check_integer(1, n_tokens=n_tokens)  # before files are read
    folder = Path(sysconfig.get_path("stdlib"))
    texts: dict[str, int] = {}  # those that two packages have belong to the first
    for label, package in enumerate(packages):
        found = _docstrings(folder / package)
        if not found:
            raise InputError(
                f"expected docstrings in the source files of Python's package {package}, got none "
                f"in {escaped(folder / package)}"
            )
        for text in found:
            texts.setdefault(text, label)
    data = from_texts(
        list(texts), list(texts.values()), packages, n_tokens=n_tokens, n_words=n_words,
        train_fraction=train_fraction, val_fraction=val_fraction, seed=seed,
    )  # fmt: skip
    version = ".".join(map(str, sys.version_info[:3]))
    note = f"{counted(len(texts), 'docstring')} of Python {version}"
    return replace(data, notes=(note, *data.notes))


@cache  # for the many environments of a vectorised one
def _docstrings(package: Path) -> tuple[str, ...]:
    """The docstrings of a package, by file name and position."""
    found = []
    for path in sorted(package.rglob("*.py")):
        with warnings.catch_warnings(action="ignore"):  # of escapes in strings, in the library
            try:
                tree = ast.parse(path.read_bytes())
            except SyntaxError:  # a file of tests or templates, which is no module
                continue
        for node in _statements(tree):
            text = ast.get_docstring(node) if isinstance(node, _DOCUMENTED) else None
            if text is not None and len(words(text)) >= LEAST_WORDS:
                found.append(text)
    return tuple(found)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and the statements in it, without their expressions, which are most of a file."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _statements(child)
