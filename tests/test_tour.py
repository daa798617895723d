"""The notebook in docs/."""

import ast
import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "tour.ipynb"
SECONDS = 300


def cells(kind):
    notebook = json.loads(NOTEBOOK.read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_the_notebook_has_code_and_no_outputs():
    assert len(cells("code")) > 5
    for cell in cells("code"):
        ast.parse("".join(cell["source"]))
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    assert NOTEBOOK.stat().st_size < 20_000


def test_the_notebooks_links_point_to_files():
    text = "".join(line for cell in cells("markdown") for line in cell["source"])
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert targets
    for target in targets:
        assert (NOTEBOOK.parent / target.partition("#")[0]).exists(), target


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the notebook's own client
def test_the_notebook_runs_from_top_to_bottom_in_five_minutes():
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    printed = "".join(output.get("text", "") for output in outputs)
    assert len(pictures) == 4
    assert printed.count("Test images") == 3
