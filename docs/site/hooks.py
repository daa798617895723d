"""What MkDocs makes the site of: files of the repository, at their paths in it.

So a relative link leads to the same file on GitHub and on the site, and a strict build checks all
of them with their anchors. Scripts and notebooks that are linked to become pages that show them.
The pages of the API, which only the site has, are made from the names that the package exports.
"""

import ast
import hashlib
import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "results/*/report.md")
CODE = {".py": "python", ".ipynb": "python", ".yml": "yaml", ".cff": "yaml"}
"""Files that pages show, by their endings, and the language of what is in them."""

API = {
    "vit_patch_env": ("Environment, models, data", "vit_patch_env"),
    "agents": ("Agents", "vit_patch_env.agents"),
    "integrations": ("Schedules for other loops", "vit_patch_env.integrations"),
    "experiments": ("Experiments", "vit_patch_env.experiments"),
}
"""Title and package of each page of the API."""

_LINK = re.compile(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")
_CODE_LINK = re.compile(rf"(\]\([^)\s#:]+(?:{'|'.join(map(re.escape, CODE))}))(?=\))")
_DIAGRAM = "architecture.svg"
_MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages, what they link to, the pages of the API, and the theme's files."""
    of_theme = [file for file in files if file.src_dir != config.docs_dir]
    pages = sorted(path for pattern in PAGES for path in ROOT.glob(pattern))
    linked = {target for page in pages for target in linked_files(page)} - set(pages)
    of_site = [ROOT / "docs" / "site" / name for name in ("extra.css", _DIAGRAM)]
    found = [_file(path, config) for path in [*pages, *sorted(linked), *of_site]]
    made = [
        File.generated(config, f"api/{name}.md", content=api_page(title, package))
        for name, (title, package) in API.items()
    ]
    return Files([*of_theme, *found, *made])


def on_page_markdown(markdown: str, **_: object) -> str:
    """The page with links to the pages of scripts and notebooks, and with its diagram drawn."""
    return _CODE_LINK.sub(r"\1.md", _MERMAID.sub(_drawn, markdown))


def _drawn(code: re.Match[str]) -> str:
    """The picture of a diagram, which needs no library in the browser.

    Raises:
        PluginError: if it is another diagram's.
    """
    digest = hashlib.sha256(code[1].encode()).hexdigest()
    if digest not in (ROOT / "docs" / "site" / _DIAGRAM).read_text(encoding="utf-8"):
        raise PluginError("a diagram has changed since it was drawn: see docs/site/diagram.py")
    return f"![The way of a batch and a patch mask through the code](site/{_DIAGRAM})"


def linked_files(page: Path) -> set[Path]:
    """The files of the repository that a page links to."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    targets = {(page.parent / target).resolve() for target in _LINK.findall(text)}
    return {target for target in targets if target.is_file()}


def code_page(path: Path) -> str:
    """A page that shows a script, or the cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return f"# {path.name}\n\n{_fenced(text, CODE[path.suffix])}"
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(
        source if kind == "markdown" else _fenced(source, CODE[path.suffix])
        for kind, source in cells
    )


def exported(package: str) -> list[str]:
    """The names that a package exports, with their modules: `vit_patch_env.env.ENV_ID`."""
    stub = ROOT.joinpath(*package.split("."), "__init__.pyi")
    return [
        f"{package}.{node.module}.{alias.name}"
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    ]


def api_page(title: str, package: str) -> str:
    """A page with the docstring of each name that a package exports."""
    lines = [f"# {title}", f"Import these from `{package}`."]
    return "\n\n".join([*lines, *(f"::: {name}" for name in exported(package))]) + "\n"


def _file(path: Path, config: MkDocsConfig) -> File:
    """A file of the site for one of the repository."""
    name = path.relative_to(ROOT).as_posix()
    if path.suffix not in CODE:
        return File.generated(config, name, abs_src_path=str(path))
    page = File.generated(config, f"{name}.md", content=code_page(path))
    page.inclusion = InclusionLevel.NOT_IN_NAV
    return page


def _fenced(code: str, language: str) -> str:
    return f"```{language}\n{code.rstrip()}\n```"
