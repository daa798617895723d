"""Text files are always UTF-8: every place that opens one says so, whatever the locale is."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("vit_patch_env", "agents", "experiments")
TEXT = {"read_text", "write_text", "TextIOWrapper", "NamedTemporaryFile"}
OTHERS = {"Image", "archive", "os", "zipfile", "webbrowser"}
"""Modules whose `open` is for something else."""


def sources():
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def unnamed(code):
    """The lines of a program that open a text file without its encoding."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and opens_text(node)
        and "encoding" not in {keyword.arg for keyword in node.keywords}
    ]


def opens_text(call):
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name != "open":
        return name in TEXT
    owner = getattr(getattr(call.func, "value", None), "id", None)
    if owner in OTHERS:
        return False
    values = [*call.args, *(one.value for one in call.keywords if one.arg == "mode")]
    modes = [one.value for one in values if isinstance(one, ast.Constant)]
    return not any(isinstance(mode, str) and "b" in mode for mode in modes)


def test_every_text_file_is_opened_with_its_encoding():
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources()
        for line in unnamed(path.read_text(encoding="utf-8"))
    }
    assert not found


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("open(path)", [1]),
        ("open(path, 'rb')", []),
        ("path.open('a')", [1]),
        ("path.open(mode='wb')", []),
        ("path.open('a', encoding='utf-8')", []),
        ("path.write_text(text)", [1]),
        ("path.read_text(encoding='utf-8')", []),
        ("Image.open(path)", []),
    ],
)
def test_what_opens_a_text_file_is_found(code, lines):
    assert unnamed(code) == lines


def test_every_encoding_of_a_text_file_is_utf_8():
    named = {
        keyword.value.value
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens_text(node)
        for keyword in node.keywords
        if keyword.arg == "encoding" and isinstance(keyword.value, ast.Constant)
    }
    assert named == {"utf-8"}
