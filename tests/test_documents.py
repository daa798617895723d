"""The commands, Python, links and tables of the documentation, and the examples."""

import configparser
import re
import runpy
import shlex
import unicodedata
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from tests.conftest import TINY_OPTIONS
from vit_patch_env.agents import RULES, SCHEDULES
from vit_patch_env.experiments import docs
from vit_patch_env.experiments.agents_by_name.table import AGENTS
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.observation import OBSERVATIONS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = (README, ROOT / "CONTRIBUTING.md", *PAGES)


class Block(NamedTuple):
    """A fenced block of code, and where it starts."""

    path: Path
    line: int
    language: str
    code: str
    reason: str | None
    """Why it cannot be run here, from a comment before it: <!-- not run: it has no loader -->"""

    def __str__(self):
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def fenced_blocks(path):
    text = path.read_text()
    return [
        Block(path, text.count("\n", 0, found.start(2)), found[2], found[3], found[1])
        for found in re.finditer(
            r"^(?:<!-- not run: ([^\n]+) -->\n\n?)?```(\w*)\n(.*?)^```$",
            text,
            re.DOTALL | re.MULTILINE,
        )
    ]


def prose(path):
    """A page without its code, in which nothing is a link or a heading."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", lambda code: code[0].replace("[", "(").replace("]", ")"), text)


def shell_lines(*blocks):
    text = "".join(block.code for block in blocks if block.language == "sh")
    lines = [line.split("#")[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line]


BLOCKS = [block for path in DOCUMENTS for block in fenced_blocks(path)]
COMMANDS = [
    pytest.param(line, id=f"{block.path.name}: {line}")
    for block in BLOCKS
    if block.reason is None
    for line in shell_lines(block)
]
NOT_CODE = {"mermaid"}
"""Languages of blocks that show what is drawn."""

EXTRAS = configparser.ConfigParser()
EXTRAS.read(ROOT / "setup.cfg")


def run_blocks(path, language):
    """The blocks of a page that a test runs."""
    return [
        block for block in BLOCKS
        if block.path == path and block.language == language and block.reason is None
    ]  # fmt: skip


PYTHON_PAGES = [path for path in DOCUMENTS if run_blocks(path, "python")]
NEEDED_BY_PAGES = {"text.md": ["transformers"]}


def test_every_page_is_searched_for_code():
    with_code = {block.path.name for block in BLOCKS}
    assert with_code >= {"README.md", "environment.md", "agents.md", "own-data.md", "models.md"}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line):
    program, *words = shlex.split(line)
    UNDERSTANDS[program](words)


def is_make_target(words):
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words


def is_example(words):
    """A script of this repository whose options it has."""
    script = (ROOT / words[0]).read_text()
    assert all(f'"{word}"' in script for word in words if word.startswith("--"))


def is_installation(words):
    """`pip install` of this package with extras that it has, or of others."""
    assert words[0] == "install"
    for package in words[1:]:
        extras = re.fullmatch(r"(?:vit-patch-env|\.)\[(.+)\]", package)
        for extra in extras[1].split(",") if extras else ():
            assert extra in EXTRAS["options.extras_require"]


def launches(words):
    """`torchrun` of a module of this package, with options of `vit-patch train`."""
    place = words.index("-m")
    assert words[place + 1] == "vit_patch_env.experiments.train"
    parse(["train", *words[place + 2 :]])


def shows_logs(words):
    assert words[0] == "--logdir"


def is_of_ray(words):
    """`ray start` with options that Ray has."""
    assert words[0] == "start"
    assert {word for word in words if word[:1] == "-"} <= {"--head", "--address"}


UNDERSTANDS = {
    "vit-patch": parse,
    "make": is_make_target,
    "python": is_example,
    "pip": is_installation,
    "tensorboard": shows_logs,
    "torchrun": launches,
    "ray": is_of_ray,
}
"""Checks of the words after a program."""


def test_the_readme_begins_with_the_two_make_commands():
    assert shell_lines(*fenced_blocks(README))[:2] == ["make train", "make test"]


def test_the_readme_has_at_most_200_lines():
    assert len(README.read_text().splitlines()) <= 200


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_run_or_says_why_not(block):
    assert block.language in {"python", "sh", *NOT_CODE} or block.reason


@pytest.mark.one_in(20)
@pytest.mark.parametrize("path", PYTHON_PAGES, ids=lambda path: path.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(path, tmp_path, monkeypatch, make_folder):
    monkeypatch.chdir(tmp_path)
    blocks = run_blocks(path, "python")
    if any("my_images" in block.code for block in blocks):
        make_folder(name="my_images", n_images=80, size=(32, 32))
    if any("runs/cats" in block.code for block in blocks):
        main(["train", *TINY_OPTIONS, "--epochs", "1", "--agent", "bandit", "--out", "runs/cats"])
        Image.new("RGB", (40, 32)).save("cat.jpg")
    for package in NEEDED_BY_PAGES.get(path.name, ()):
        pytest.importorskip(package)
    names = {"__name__": "__main__"}
    for block in blocks:
        exec(compile("\n" * block.line + shrunk(block.code), str(path), "exec"), names)


def shrunk(code):
    """The same calls on a ViT small enough for a test."""
    small = "dim=16, depth=1, heads=1, dim_head=8, mlp_dim=8, epochs=1"
    if "total_steps=" in code:  # a loop of its own, which is small
        return code
    code = re.sub(r"epochs=\d+", small, code)
    assert small in code or "ViTPatchSelectEnv" not in code
    return code


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_point_to_files_and_headings(path):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    for target in targets:
        if re.match(r"\w+:", target):
            continue
        file, _, heading = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        assert not heading or heading in headings(linked), target


def headings(path):
    """The anchors that GitHub gives to the headings of a page, where none occurs twice."""
    found = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {
        "".join(
            letter
            for letter in title.lower().replace(" ", "-")
            if letter in "-_" or unicodedata.category(letter)[0] in "LN"
        )
        for title in found
    }


def test_the_index_and_the_readme_link_to_every_page():
    for index in (ROOT / "docs" / "README.md", README):
        for page in PAGES:
            if page.name != "README.md":
                assert re.search(rf"\]\((docs/)?{page.name}\)", index.read_text()), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_generated_sections_have_their_markers_once(page):
    written_by_commands = {
        "clients.md": ["outcome"], "comparing.md": ["results"], "reliability.md": ["outcome"],
    }  # fmt: skip
    expected = [*docs.TABLES.get(page.name, ()), *written_by_commands.get(page.name, ())]
    found = re.findall(r"^<!-- (/?\w+) -->$", page.read_text(), re.MULTILINE)
    assert found == [mark for section in expected for mark in (section, f"/{section}")]


@pytest.mark.parametrize("name", docs.TABLES)
def test_generated_tables_are_up_to_date(name):
    page = ROOT / "docs" / name
    assert page.read_text() == docs.updated(page), (
        f"{page} differs from the declarations: run `make tables` "
        "(python -m vit_patch_env.experiments.docs)"
    )


def test_pages_with_other_tables_are_named(tmp_path, monkeypatch):
    for name in docs.TABLES:
        (tmp_path / name).write_text((ROOT / "docs" / name).read_text())
    monkeypatch.setattr(docs, "DOCS", tmp_path)
    docs.main(["--check"])
    page = tmp_path / "models.md"
    page.write_text(page.read_text().replace("<!-- /models -->", "old\n<!-- /models -->"))
    with pytest.raises(SystemExit, match=r"^models.md: tables differ .* run `make tables`$"):
        docs.main(["--check"])
    docs.main([])
    docs.main(["--check"])


def test_the_diagram_of_the_site_is_that_of_its_page():
    diagram = runpy.run_path(str(ROOT / "docs" / "site" / "diagram.py"))
    (code,) = diagram["FENCE"].findall(diagram["PAGE"].read_text())
    assert diagram["DRAWN"].read_text().startswith(diagram["mark"](code))


def test_a_page_keeps_what_is_outside_the_markers(tmp_path):
    text = (ROOT / "docs" / "models.md").read_text()
    page = tmp_path / "models.md"
    page.write_text(
        re.sub(r"(<!-- models -->\n).*(<!-- /models -->)", r"\1old\n\2", text, flags=re.S)
    )
    assert page.read_text() != text
    assert docs.updated(page) == text
    page.write_text(text.replace("<!-- /models -->", ""))
    with pytest.raises(ValueError, match="expected <!-- models --> and <!-- /models --> each once"):
        docs.updated(page)


def test_the_tables_have_every_name():
    agents = "".join(docs.TABLES["agents.md"][name]() for name in ("agents", "rules", "schedules"))
    assert [f"`{name}`" in agents for name in AGENTS] == [True] * len(AGENTS)
    assert all(agent.doc for name, agent in AGENTS.items() if name not in (*RULES, *SCHEDULES))
    observations = docs.TABLES["environment.md"]["observations"]()
    assert all(f"`{name}`" in observations for name in OBSERVATIONS)


NEEDED_BY_EXAMPLES = {
    "hugging_face_trainer.py": ("transformers", "accelerate"),
    "lightning_trainer.py": ("lightning", "timm"),
    "multi_agent.py": ("pettingzoo", "supersuit"),
    "own_loop.py": ("timm",),
    "text_tokens.py": ("transformers",),
    "timm_loop.py": ("timm",),
}
QUICK = {
    "growing_schedules.py": "--epochs 1 --rules 16-16-1 8-32-2",
    "hugging_face_trainer.py": "4",
    "lightning_trainer.py": "4",
    "own_loop.py": "4",
    "which_patches.py": "1",
    "timm_loop.py": "4",
}
"""Arguments with which an example takes less time than with its defaults."""


@pytest.mark.long
@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name
)
def test_examples_run(path, capsys, monkeypatch):
    for package in NEEDED_BY_EXAMPLES.get(path.name, ()):
        pytest.importorskip(package)
    monkeypatch.setattr("sys.argv", [str(path), *QUICK.get(path.name, "").split()])
    runpy.run_path(str(path), run_name="__main__")
    assert re.search(r"Metrics\(loss=|accuracy \d", capsys.readouterr().out)
