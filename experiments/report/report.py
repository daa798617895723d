"""`vit-patch report`: a comparison as a page with tables and plots, and as a README section."""

import base64
import os
import shlex
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from rich.console import Console

from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.experiments.compare.results import Comparison, read_comparison
from vit_patch_env.experiments.compare.task_results import TASK_SET
from vit_patch_env.experiments.options.commands import ReportOptions
from vit_patch_env.experiments.process.output import TextTable, print_lines, print_table
from vit_patch_env.experiments.report.cells import Table
from vit_patch_env.experiments.report.disturbance import disturbance_notes
from vit_patch_env.experiments.report.findings import findings, highlights
from vit_patch_env.experiments.report.metrics import ComparisonMetrics
from vit_patch_env.experiments.report.paper_comparison import against_paper
from vit_patch_env.experiments.report.plots import Plot, make_plots
from vit_patch_env.experiments.report.settings import settings, sources, warnings
from vit_patch_env.experiments.report.tables import (
    cost_table,
    paired_table,
    readme_table,
    table2,
    time_table,
)
from vit_patch_env.experiments.report.task_report import task_content
from vit_patch_env.experiments.report.words import command_lines
from vit_patch_env.reading import MEGABYTE, read_bytes
from vit_patch_env.system.escaping import code_block, html, link_target, markdown
from vit_patch_env.system.files import replacing

BEGIN, END = "<!-- results -->", "<!-- /results -->"
_UNKNOWN = "backslashreplace"
"""What is written of letters that UTF-8 lacks, which JSON and file names may have."""

_WIDE = 3
"""Columns of a table that fit on a narrow screen."""

_README_BYTES = 16 * MEGABYTE
HTML, MARKDOWN, PLOTS = "report.html", "report.md", "plots"


class Report:
    """A comparison's report: call `prepare`, then `run`.

    Args:
        options: of the command.
        console: to print to.
    """

    def __init__(self, options: ReportOptions, console: Console) -> None:
        self.folder = Path(options.folder)
        self.console = console
        self.readme = None if options.readme is None else Path(options.readme)
        self.comparison: Comparison | None = None
        self.of_tasks: dict[str, Any] | None = None

    def prepare(self) -> None:
        """Read and check the comparison and the README; nothing is written.

        Raises:
            ValueError: without compare.json or a finished run, if the README does not have exactly
                one pair of markers, or if the folder of plots is a link
                or a file.
        """
        if self.readme is not None:
            split_readme(self.readme)
        plots = self.folder / PLOTS
        if plots.is_symlink():
            raise InputError(f"expected a folder of plots, got the link {plots}")
        if plots.exists() and not plots.is_dir():
            raise InputError(f"expected a folder of plots, got the file {plots}: remove it")
        for path in (self.folder / HTML, self.folder / MARKDOWN):
            if path.is_dir():
                raise InputError(f"expected a file to replace, got the folder {path}: remove it")
        if (self.folder / TASK_SET).exists():
            self._prepare_tasks()
            return
        comparison = read_comparison(self.folder)
        if not comparison.runs:
            problems = "".join(f"; {problem}" for problem in comparison.problems)
            raise InputError(
                f"expected at least one finished run in {self.folder}, got none{problems}"
            )
        self.comparison = comparison

    def _prepare_tasks(self) -> None:
        """Read and check a comparison of tasks, which has no section in a README."""
        if self.readme is not None:
            raise ArgumentError(
                "readme", f"is for a comparison of one data set, got {self.folder}, one of tasks"
            )
        self.of_tasks = task_content(self.folder)

    def run(self) -> None:
        """Write report.html, report.md, plots/ and, if given, the section of the README."""
        if self.of_tasks is not None:
            content = self.of_tasks
            self._show(content["tables"][0], content["warnings"], self._write_files(content))
            return
        assert self.comparison is not None, "call prepare first"
        metrics = ComparisonMetrics(self.comparison)
        content = {**_content(metrics), "plots": make_plots(metrics)}
        written = self._write_files(content)
        if self.readme is not None:
            before, after = split_readme(self.readme)
            section = self._readme_section(metrics, content, self.readme)
            self.readme.write_bytes(before + section.encode(errors=_UNKNOWN) + after)
            written.append(self.readme)
        self._show(content["tables"][0], content["warnings"], written)

    def _write_files(self, content: dict[str, Any]) -> list[Path]:
        """Write the pages and the plots; the pages' paths."""
        written = [self.folder / HTML, self.folder / MARKDOWN]
        folder = self.folder / PLOTS
        folder.mkdir(exist_ok=True)
        for plot in content["plots"]:
            with replacing(folder / f"{plot.name}.png") as partial:
                partial.write_bytes(plot.png)
        _write(written[0], _render("report.html.j2", content))
        _write(written[1], _render("report.md.j2", content))
        return written

    def _readme_section(
        self, metrics: ComparisonMetrics, content: dict[str, Any], readme: Path
    ) -> str:
        """The text between the markers.

        Paths of links are relative to the README, those of the command to the folder of both.
        """
        folder = Path(os.path.relpath(self.folder, readme.parent)).as_posix()
        comparison, readme = self.folder.resolve(), readme.resolve()
        root = os.path.commonpath([comparison.parent, readme.parent])
        from_root = (path.relative_to(root).as_posix() for path in (comparison, readme))
        command = f"vit-patch report {' --readme '.join(map(shlex.quote, from_root))}"
        plots: list[Plot] = content["plots"]
        front = f"accuracy_over_{metrics.costs[-1].metric}"
        return _render(
            "readme.md.j2",
            {
                **content,
                "folder": folder,
                "commands": [*content["command"], *command_lines(command)],
                "table": readme_table(metrics),
                "plot": next((plot for plot in plots if plot.name == front), None),
                "highlights": highlights(metrics),
                "seeds": ", ".join(map(str, metrics.comparison.seeds)),
            },
        )

    def _show(self, main: Table, problems: list[str], written: list[Path]) -> None:
        """Print the main table, the excluded runs and the paths of the written files."""
        table = TextTable(main.title, ["Approach"], main.columns)
        for block in main.blocks:
            for row in block.rows:
                table.add_row(row.title, *(cell.text for cell in row.cells))
            table.end_section()
        print_table(table, self.console)
        print_lines([*problems, f"Written: {', '.join(map(str, written))}"], self.console)


def split_readme(path: Path) -> tuple[bytes, bytes]:
    """The text up to and including the first marker, and that from the second marker on.

    Raises:
        ValueError: if the file cannot be read or does not contain each marker once, in order.
    """
    try:
        content = read_bytes(path, _README_BYTES, "a README")
    except InputError as error:
        raise ArgumentError("readme", f"must be a file, got {path}: {error}") from error
    begin, end = BEGIN.encode(), END.encode()
    if (
        content.count(begin) != 1
        or content.count(end) != 1
        or content.find(begin) > content.find(end)
    ):
        raise InputError(
            f"expected {BEGIN} and after it {END}, each once, in {path}, "
            f"got {content.count(begin)} and {content.count(end)}"
        )
    before, _, rest = content.partition(begin)
    return before + begin, end + rest.partition(end)[2]


def _content(metrics: ComparisonMetrics) -> dict[str, Any]:
    """The values of the templates."""
    comparison = metrics.comparison
    name = comparison.content.get("preset") or comparison.folder.resolve().name
    tables = [table2(metrics), cost_table(metrics), paired_table(metrics)]
    tables += [time_table(metrics, cost) for cost in metrics.curve_costs]
    notes = disturbance_notes(comparison, metrics.disturbances)
    return {
        "title": f"Comparison: {name}",
        "findings": findings(metrics),
        "against_paper": against_paper(metrics),
        "settings": settings(comparison),
        "sources": sources(comparison),
        "warnings": [*warnings(comparison), *notes],
        "command": command_lines(comparison.content.get("command", "")),
        "wide": _WIDE,
        "tables": [table for table in tables if table is not None and table.columns],
    }


def _render(template: str, content: dict[str, Any]) -> str:
    """A template with this content, of which every value is escaped for the file's format."""
    return _template(template).render(content)


@cache
def _template(name: str) -> Template:
    """A template that escapes values by itself, so that none can be forgotten."""
    is_html = name.endswith(".html.j2")
    environment = Environment(
        loader=PackageLoader("vit_patch_env.experiments.report"),
        finalize=partial(_escaped, html if is_html else markdown),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for filter_name, form in _FORMS.items():
        environment.filters[filter_name] = partial(_formed, form)
    return environment.get_template(name)


_FORMS: dict[str, Callable[[Any], str]] = {
    "base64": lambda data: base64.b64encode(data).decode(),
    "item": partial(markdown, begins_line=True),
    "code": partial(code_block, language="sh"),
    "target": link_target,
}
"""Filters of the templates whose values are escaped in another way than the others."""


class _Escaped(str):
    """Text that a filter of a template has escaped."""

    __slots__ = ()


def _formed(form: Callable[[Any], str], value: Any) -> _Escaped:
    """A value in such a form."""
    return _Escaped(form(value))


def _escaped(escape: Callable[[Any], str], value: Any) -> str:
    """A value that is escaped, unless a filter has done that."""
    return value if isinstance(value, _Escaped) else escape(value)


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors=_UNKNOWN, newline="\n")
