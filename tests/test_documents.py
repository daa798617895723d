"""What the README and the examples say is run here."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from vit_patch_env.experiments.cli import parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def shell_lines():
    text = "".join(block for language, block in BLOCKS if language == "sh")
    return [line.split("#")[0].strip() for line in text.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("vit-patch ")])
def test_the_readmes_commands_are_understood(line):
    parse(shlex.split(line)[1:])


def test_the_readme_begins_with_the_two_make_commands():
    assert shell_lines()[:2] == ["make train", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    for line in shell_lines():
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_the_readmes_python_runs(code, tmp_path, monkeypatch, make_folder):
    monkeypatch.chdir(tmp_path)
    make_folder(name="my_images", n_images=80, size=(32, 32))
    exec(compile(shrunk(code), "README.md", "exec"), {})


def shrunk(code):
    """The same calls on a ViT small enough for a test."""
    small = "dim=16, depth=1, heads=1, dim_head=8, mlp_dim=8, epochs=1"
    code = re.sub(r"epochs=\d+", small, code)
    assert small in code
    return code


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name
)
def test_examples_run(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert "Metrics(loss=" in capsys.readouterr().out
