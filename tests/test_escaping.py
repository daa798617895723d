"""Text from outside reaches terminals, HTML, Markdown and plots as text, whatever it holds."""

import ast
import io
import json
import re
import shlex
import shutil
import string
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from rich.console import Console

import vit_patch_env
from tests.conftest import TINY_OPTIONS
from tests.fabricated import fabricate, write_result
from vit_patch_env.experiments.bench.report import plot_bench, show_bench
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.compare.display import CompareDisplay
from vit_patch_env.experiments.compare.entries import Entry
from vit_patch_env.experiments.compare.methods import METHODS
from vit_patch_env.experiments.compare.results import read_comparison
from vit_patch_env.experiments.options.commands import ReportOptions
from vit_patch_env.experiments.process.messages import say, show_warning
from vit_patch_env.experiments.process.output import TextTable, print_line, print_table
from vit_patch_env.experiments.report.metrics import ComparisonMetrics
from vit_patch_env.experiments.report.plot_style import STYLE
from vit_patch_env.experiments.report.plots import Plot, make_plots
from vit_patch_env.experiments.report.report import (
    BEGIN,
    END,
    HTML,
    MARKDOWN,
    Report,
    split_readme,
)
from vit_patch_env.experiments.report.words import unique
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.system.cache import ABOUT, IMAGES
from vit_patch_env.system.escaping import code_block, html, label, link_target, markdown
from vit_patch_env.system.shown import escaped, escaped_line

HOSTILE = {
    "elements": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "attributes": "\" onload='alert(1)' x=\"&lt;b&gt;",
    "markers": f"{END} {BEGIN}",
    "cells": "a | b \\| c \\",
    "code": "`a` ``` ~~~ ~~struck~~",
    "fence": "`````",
    "links": "[a](http://b.c) ![d](e) [f][g] <http://h.i> http://j.k www.l.m [n]: o",
    "brackets": "x](http://b.c)[1](d)[0.1, 0.2]",
    "emphasis": "*a* **b** _c_ __d__ a_b",
    "heading": "# a ##",
    "quotation": "> a",
    "list": "- a",
    "ordered": "1. a",
    "rule": "---",
    "lines": "a\n\n# b\r\n| c |\n|---|\u2028d\x85e",
    "terminal": "a\x1b]0;b\x07\x1b[31mc\x9b2J\x00\b",
    "bidirectional": "a\u202eb\u2066c",
    "undecoded": "a\udcffb",
    "rich": "Agent[/red] [bold]a[/] :cat: [link=http://b.c]d",
    "formula": "$\\frac{$ a $$b$$",
    "long": "a" * 200_000,
}
"""Texts that mean more than their characters in one of the formats."""

hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)

TOGETHER = "".join(text for name, text in HOSTILE.items() if name != "long")
on_a_terminal = pytest.mark.parametrize(
    "text", [TOGETHER, HOSTILE["long"]], ids=["hostile", "long"]
)
"""What the beginning of a text means does not matter there."""

pieces = st.sampled_from([*string.punctuation, *"a1 \n\t\x1b\u202e\udcffü", "www.", "://", "&lt;"])
texts = st.one_of(st.text(), st.lists(pieces).map("".join))


def events(page):
    """Tags with their attributes, and the text between them, of an HTML page."""
    found = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    reader.handle_data = found.append
    for name in ("endtag", "comment", "decl", "pi"):
        setattr(reader, f"handle_{name}", lambda text, name=name: found.append((name, text)))
    reader.feed(page)
    reader.close()
    return found


def tokens(source):
    """What Markdown is made of besides text, and its text."""
    found, text = [], []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source):
        for one in token.children or [token]:
            if one.type == "text":
                text.append(one.content)
            elif token.type != "inline" or token.children:
                found.append((one.type, one.tag, one.attrs.get("href"), one.attrs.get("src")))
    return found, "".join(text)


def is_safe(shown):
    """Whether a terminal reads nothing in a text but its characters and the ends of lines."""
    return all(line.isprintable() for line in shown.split("\n"))


# Each function.


@given(texts, st.integers(3, 30))
@example("a" * 200_000, 20)
def test_a_name_is_one_printable_line_of_bounded_length(text, longest):
    shown = escaped(text, longest)
    assert shown.isprintable()
    assert len(shown) <= longest
    assert escaped(shown, longest) == shown
    if text.isprintable() and len(text) <= longest:
        assert shown == text


@given(texts)
def test_text_in_html_is_read_as_the_same_text(text):
    shown = escaped_line(text)
    assert events(f'<p title="{html(text)}">{html(text)}</p>') == [
        ("p", {"title": shown}), *([shown] if shown else []), ("endtag", "p"),
    ]  # fmt: skip


@given(texts)
@example("a\\").via("the end of a line")
@example("http://a www.a &lt; [1](a) ![a] a_b_ \\|")
def test_text_in_markdown_is_rendered_as_the_same_text(text):
    shown = escaped_line(text).strip()
    for before, after, begins_line in (
        ("- a ", "", False), ("- ", "", True), ("", "\n\nb", True), ("# a ", "", False),
        ("| a |\n|---|\n| ", " |", False), ("[a ", "](b)", False),
    ):  # fmt: skip
        plain, got = (
            tokens(f"{before}{inner}{after}\n")
            for inner in ("x", markdown(text, begins_line=begins_line))
        )
        if shown:
            assert got[0] == plain[0]
            assert got[1] == plain[1].replace("x", shown)
    # More that GitHub renders: addresses as links, and what is between dollars as formulas.
    assert not re.search(r"<|(?<!\\)(://|\$)|www\.", markdown(text))


@given(st.lists(texts, min_size=1, max_size=3))
@example(["```", "`````"])
def test_commands_in_markdown_remain_what_they_are(lines):
    (block,) = MarkdownIt().parse(code_block(lines, "sh"))
    assert (block.type, block.info) == ("fence", "sh")
    assert END not in block.content
    shown = [escaped_line(line) for line in lines]
    assert block.content.replace("<!-''-", "<!--") == "\n".join(shown) + "\n"


@given(st.lists(st.text(string.printable), min_size=1))
def test_a_shell_reads_a_copied_command_as_the_original(words):
    words = [escaped(word) for word in words]
    copied = code_block([shlex.join(words)], "sh").split("\n")[1]
    assert shlex.split(copied) == words


@given(st.text(st.characters(exclude_characters="\0")))
def test_a_path_as_a_links_target_is_that_path(path):
    target = link_target(path.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape"))
    assert re.fullmatch(r"[\w/.~%-]*", target, re.ASCII)
    assert unquote_to_bytes(target) == path.encode("utf-8", "surrogatepass")


@given(texts)
def test_text_in_a_plot_is_no_formula(text):
    assert not is_math_text(label(text))
    assert label(text).replace("\\$", "$") == escaped(text, 40)


@given(texts)
def test_lines_and_tables_are_printed_as_they_are(text):
    console = Console(file=io.StringIO(), width=2_000)
    print_line(text, console)
    assert console.file.getvalue() == escaped_line(text) + "\n"
    table = TextTable(text, [text], ["b"])
    table.add_row(text, (text, "red"))
    table.add_caption(text)
    print_table(table, console)
    assert is_safe(console.file.getvalue())


@on_a_terminal
def test_messages_are_one_safe_line(text, capsys):
    say(text)
    show_warning(text)
    for line in capsys.readouterr().err.removesuffix("\n").split("\n"):
        assert line.startswith("vit-patch: ")
        assert line.isprintable()
        assert len(line) < 11_000


def test_what_differs_between_runs_is_named_whatever_its_length():
    assert unique([HOSTILE["long"], "b", HOSTILE["long"], None]) == [escaped("a" * 200_000), "b"]


# Reports.


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A comparison whose runs were made on two machines, so that there is a warning."""
    folder = tmp_path_factory.mktemp("made") / "c"
    return fabricate(folder, methods=("simple_vit", "agentvit"), seeds=(0,), epochs=2, side=4)


@pytest.fixture
def report(comparison, tmp_path, monkeypatch):
    """Reports on a comparison in which a text is everywhere where one can come from outside."""
    plot = Plot("accuracy_over_seconds", "Accuracy", "A caption.", b"png")
    monkeypatch.setattr(
        "vit_patch_env.experiments.report.report.make_plots", lambda metrics: [plot]
    )

    def write(text):
        name = text.replace("/", "_").replace("\0", "")[:60]
        root = tmp_path / "reports"
        folder = root / name
        shutil.copytree(comparison, folder)
        spread_out(text, folder)
        (folder / "runs" / name).mkdir()
        readme = root / "README.md"
        readme.write_text(f"# Mine\n\n{BEGIN}\n{END}\n\nMore.\n")
        console = Console(file=io.StringIO(), width=120)
        command = Report(ReportOptions(folder=str(folder), readme=str(readme)), console)
        command.prepare()
        command.run()
        assert len(split_readme(readme)) == 2  # so that the section can be written again
        written = [path.read_text() for path in (folder / HTML, folder / MARKDOWN, readme)]
        shutil.rmtree(root)
        return *written, console.file.getvalue()

    return write


def spread_out(text, folder):
    """Write a text wherever a comparison's files may have any."""
    path = folder / "compare.json"
    content = json.loads(path.read_text())
    for name in ("titles", "groups", "sources"):
        content[name] = dict.fromkeys(content["methods"], text)
    content |= dict.fromkeys(("preset", "command", "python"), text)
    content["versions"] = {text: text, "torch": text}
    path.write_text(json.dumps(content))
    run = folder / "runs" / "agentvit__0"
    result = json.loads((run / "result.json").read_text())
    write_result(run, result | dict.fromkeys(("machine", "device_name", "precision"), text))


@pytest.fixture(scope="module")
def ordinary():
    """What a report is made of where all texts are ordinary."""
    return {}


@pytest.mark.long
@hostile
def test_a_report_is_made_of_the_same_whatever_its_texts_are(text, report, ordinary):
    if not ordinary:
        page, *sources, _ = report("ordinary")
        ordinary["page"] = structure(page)
        ordinary["sources"] = [tokens(source)[0] for source in sources]
    page, *sources, printed = report(text)
    assert structure(page) == ordinary["page"]
    for source, expected in zip(sources, ordinary["sources"], strict=True):
        assert without_targets(tokens(source)[0]) == without_targets(expected)
        (commands,) = code_in(source)
        assert commands.split("\n")[0].replace("<!-''-", "<!--") == escaped_line(text)
    for shown in (page, *sources, printed):
        assert is_safe(shown)
        assert len(shown) < 300_000
    title = escaped(text)
    assert title in printed.replace("\n", "") or len(title) > 30
    for words in (" ".join(filter(lambda one: isinstance(one, str), events(page))),
                  *(tokens(source)[1] for source in sources)):  # fmt: skip
        assert title.strip() in words


def structure(page):
    """The tags of an HTML page and the names of their attributes, without text."""
    tags = [one for one in events(page) if isinstance(one, tuple)]
    return [(tag, sorted(rest) if isinstance(rest, dict) else rest) for tag, rest in tags]


def code_in(source):
    """What is in the blocks of code of Markdown."""
    return [one.content for one in MarkdownIt().parse(source) if one.type == "fence"]


def without_targets(found):
    """The tokens; the links and pictures of a README contain the comparison's folder."""
    return [(kind, tag, href is not None, src is not None) for kind, tag, href, src in found]


def test_the_links_of_a_readme_lead_to_the_report(report):
    *_, readme, _ = report(HOSTILE["elements"] + HOSTILE["links"] + " %20#?")
    found = [one for one in tokens(readme)[0] if one[0] in ("link_open", "image")]
    name = (HOSTILE["elements"] + HOSTILE["links"] + " %20#?").replace("/", "_")[:60]
    targets = [unquote_to_bytes(href or src).decode() for _, _, href, src in found]
    assert targets == [f"{name}/plots/accuracy_over_seconds.png", f"{name}/report.md"]
    lines = readme.replace("\\\n", "").split("\n")  # a command may take several
    command = next(line for line in lines if line.startswith("vit-patch report"))
    assert shlex.split(command) == ["vit-patch", "report", name, "--readme", "README.md"]


@pytest.mark.long
def test_plots_are_drawn_whatever_the_titles_are(tmp_path, monkeypatch):
    monkeypatch.setitem(STYLE, "figure.dpi", 30)
    names = ("formula", "long", "terminal", "bidirectional", "undecoded", "cells")
    methods = ("simple_vit", "agentvit", "random", "centre", "pss", "tome")
    folder = fabricate(tmp_path / "c", methods=methods, seeds=(0,), epochs=2, side=4)
    content = json.loads((folder / "compare.json").read_text())
    titles = (HOSTILE[name] for name in names)
    content["titles"] = dict(zip(methods, titles, strict=True))
    (folder / "compare.json").write_text(json.dumps(content))
    plots = make_plots(ComparisonMetrics(read_comparison(folder)))
    assert len(plots) == 6
    assert all(plot.png.startswith(b"\x89PNG") for plot in plots)


# Other commands.


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@on_a_terminal
def test_a_benchmark_is_shown_whatever_the_device_is_called(text, console):
    bench = json.loads((Path(__file__).parent.parent / "docs" / "bench.json").read_text())
    skipped = [{"name": "vit-pytorch", "n_patches": 64, "reason": text}]
    show_bench({**bench, "device": text, "skipped": skipped}, console)
    assert is_safe(console.file.getvalue())
    assert len(console.file.getvalue()) < 40_000


def test_a_benchmark_is_plotted_whatever_the_device_is_called(tmp_path, monkeypatch):
    bench = json.loads((Path(__file__).parent.parent / "docs" / "bench.json").read_text())
    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text: titles.append(text))
    monkeypatch.setattr(Figure, "savefig", lambda *args, **kwargs: None)
    plot_bench({**bench, "device": HOSTILE["formula"] + HOSTILE["terminal"]}, tmp_path / "b.png")
    assert titles[0].isprintable()
    assert not is_math_text(titles[0])


@on_a_terminal
def test_why_a_run_failed_is_shown_whatever_its_log_holds(text, console, tmp_path):
    failed = Entry("random", METHODS["random"], 0, RunFolder(tmp_path), state="failed", note=text)
    done = Entry("random", METHODS["random"], 1, RunFolder(tmp_path), state="done", note=text)
    display = CompareDisplay(1, console)
    display.begin(text, [failed, done])
    display.show_end(text, failed)
    console.print(display.table(text, [failed, done]))
    assert is_safe(console.file.getvalue())


@on_a_terminal
def test_the_cache_is_shown_whatever_its_files_hold(text, own_cache, capsys):
    store = own_cache / IMAGES / "a"
    store.mkdir(parents=True)
    (store / ABOUT).write_text(text, encoding="utf-8", errors="surrogateescape")
    main(["cache"])
    shown = capsys.readouterr().out
    assert is_safe(shown)
    assert "images of" in shown
    assert len(shown) < 10_000


NAMES = tuple(
    HOSTILE[name].replace("/", "_").replace("\0", "") for name in ("terminal", "rich", "lines")
)
"""Names that a file can have."""


def test_images_and_runs_are_named_safely(make_folder, tmp_path, capsys, monkeypatch):
    # Without the kernel, which takes seconds to compile.
    monkeypatch.setattr("vit_patch_env.models.kernels.build._built", lambda dtype: None)
    images, out = make_folder(classes=NAMES), tmp_path / "".join(NAMES)
    (images / "train" / NAMES[0] / f"{NAMES[0]}.txt").write_text("")
    options = [*TINY_OPTIONS, "--dataset", "folder", "--data-dir", str(images), "--epochs", "1"]
    main(["train", *options, "--batch-size", "16", "--agent", "random", "--out", str(out)])
    trained = capsys.readouterr()
    assert escaped_line(f"  vit-patch evaluate {shlex.quote(str(out))}") in trained.out
    (images / "test" / NAMES[1]).rename(images / "test" / f"{NAMES[1]}b")
    (images / "train" / NAMES[1]).rename(images / "train" / f"{NAMES[1]}b")
    with pytest.raises(SystemExit):
        main(["evaluate", str(out)])
    evaluated = capsys.readouterr()
    assert "expected the run's classes" in evaluated.err
    for text in (*trained, *evaluated):
        assert is_safe(text)


@pytest.mark.long
@pytest.mark.parametrize("name", ["agent", "data-dir", "out", "resume"])
@on_a_terminal
def test_a_refused_value_is_named_safely(name, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".lock").mkdir()
    text = f"{text} nowhere".replace("\0", "")
    given = {"agent": text, "data-dir": text, "out": f".lock/{text}", "resume": text}[name]
    with pytest.raises(SystemExit) as stop:
        main(["train", *TINY_OPTIONS, "--dataset", "folder", f"--{name}", given])
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert is_safe(shown.out + shown.err)
    assert len(shown.err) < 11_000


# No other place.

PACKAGE = Path(vit_patch_env.__file__).parent
WRITERS = {"experiments/process/output.py", "experiments/process/messages.py"}
"""Modules that print."""


def test_all_text_is_printed_by_functions_that_escape_it():
    found = []
    for top in ("", "agents", "experiments"):
        for path in sorted((PACKAGE / top).rglob("*.py")):
            name = path.relative_to(PACKAGE).as_posix()
            if name not in WRITERS:
                found += [f"{name}:{line}" for line in printing(ast.parse(path.read_text()))]
    assert [one.partition(":")[0] for one in found] == ["experiments/cli.py"], found  # the version


def printing(tree):
    """The lines that print by themselves, or make tables of texts in which rich reads markup."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "rich.table":
            yield node.lineno
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "print" or re.search(r"\bconsole\.(?!status$)\w+$", called):
                yield node.lineno
