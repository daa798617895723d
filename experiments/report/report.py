"""`vit-patch report`: a comparison's files as a page, and as a section of a README."""

import base64
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.table import Table as RichTable

from vit_patch_env.experiments.compare.results import read_comparison
from vit_patch_env.experiments.options.commands import ReportOptions
from vit_patch_env.experiments.report.measures import Measures
from vit_patch_env.experiments.report.plots import Plot, draw_plots
from vit_patch_env.experiments.report.settings import settings, sources, warnings
from vit_patch_env.experiments.report.tables import (
    Table,
    cost_table,
    paired_table,
    readme_table,
    table2,
    time_table,
)
from vit_patch_env.experiments.report.text import against_paper, findings, highlights
from vit_patch_env.system.files import replacing

BEGIN, END = "<!-- results -->", "<!-- /results -->"
HTML, MARKDOWN, PLOTS = "report.html", "report.md", "plots"


class Report:
    """A comparison's report.

    Args:
        options: which comparison.
        console: where problems and the main table are shown.

    Raises:
        ValueError: without compare.json, without a finished run, or if the README has not one
            pair of markers.
    """

    def __init__(self, options: ReportOptions, console: Console) -> None:
        self.folder = Path(options.folder)
        self.console = console
        self.readme = None if options.readme is None else Path(options.readme)
        if self.readme is not None:
            split_readme(self.readme)
        if (self.folder / PLOTS).is_symlink():
            raise ValueError(f"expected a folder of plots, got the link {self.folder / PLOTS}")
        self.comparison = read_comparison(self.folder)
        if not self.comparison.runs:
            problems = "".join(f"; {problem}" for problem in self.comparison.problems)
            raise ValueError(
                f"expected at least one finished run in {self.folder}, got none{problems}"
            )

    def run(self) -> None:
        """Write report.html, report.md and plots/, and the README's section if asked for."""
        measures = Measures(self.comparison)
        plots = draw_plots(measures)
        content = {**self._content(measures), "plots": plots}
        written = [self.folder / HTML, self.folder / MARKDOWN]
        folder = self.folder / PLOTS
        folder.mkdir(exist_ok=True)
        for plot in plots:
            with replacing(folder / f"{plot.name}.png") as partial:
                partial.write_bytes(plot.png)
        _write(written[0], _render("report.html.j2", content))
        _write(written[1], _render("report.md.j2", content))
        if self.readme is not None:
            before, after = split_readme(self.readme)
            section = self._readme_section(measures, content, self.readme)
            self.readme.write_bytes(before + section.encode() + after)
            written.append(self.readme)
        self._show(content["tables"][0], content["warnings"], written)

    def _content(self, measures: Measures) -> dict[str, Any]:
        """What the templates show."""
        comparison = self.comparison
        preset = comparison.content.get("preset")
        return {
            "title": f"Comparison: {preset or self.folder.resolve().name}",
            "findings": findings(measures),
            "against_paper": against_paper(measures),
            "settings": settings(comparison),
            "sources": sources(comparison),
            "warnings": warnings(comparison),
            "command": comparison.content.get("command", ""),
            "tables": [
                table
                for make in (table2, cost_table, paired_table, time_table)
                if (table := make(measures)) is not None and table.columns
            ],
        }

    def _readme_section(self, measures: Measures, content: dict[str, Any], readme: Path) -> str:
        """What stands between the markers; paths are relative to the README."""
        here = Path(os.path.relpath(self.folder, readme.parent)).as_posix()
        plots: list[Plot] = content["plots"]
        front = f"accuracy_over_{measures.costs[-1].measure}"
        return _render(
            "readme.md.j2",
            {
                **content,
                "folder": here,
                "readme": readme.name,
                "table": readme_table(measures),
                "plot": next((plot for plot in plots if plot.name == front), None),
                "highlights": highlights(measures),
                "seeds": ", ".join(map(str, self.comparison.seeds)),
            },
        )

    def _show(self, main: Table, problems: list[str], written: list[Path]) -> None:
        """Print the main table, what was left out and what was written."""
        table = RichTable(title=main.title, title_justify="left")
        table.add_column("Approach")
        for column in main.columns:
            table.add_column(column, justify="right")
        for block in main.blocks:
            for row in block.rows:
                table.add_row(row.title, *(cell.text for cell in row.cells))
            table.add_section()
        self.console.print(table)
        for line in [*problems, f"Written: {', '.join(map(str, written))}"]:
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)


def split_readme(path: Path) -> tuple[bytes, bytes]:
    """What stands up to the first marker, with it, and from the last one on.

    Raises:
        ValueError: if the file cannot be read or does not hold each marker once, in order.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"readme must be a file, got {path}: {error.strerror}") from error
    begin, end = BEGIN.encode(), END.encode()
    if (
        content.count(begin) != 1
        or content.count(end) != 1
        or content.find(begin) > content.find(end)
    ):
        raise ValueError(
            f"expected {BEGIN} and after it {END}, each once, in {path}, "
            f"got {content.count(begin)} and {content.count(end)}"
        )
    before, _, rest = content.partition(begin)
    return before + begin, end + rest.partition(end)[2]


def _render(template: str, content: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("vit_patch_env.experiments.report"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    return environment.get_template(template).render(content)


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
