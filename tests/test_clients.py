"""What `make clients` reports; the clients themselves are not needed."""

import re
from pathlib import Path

import pytest

from tests.clients import __main__ as clients
from tests.clients.attempts import attempt

PAGE = Path(__file__).parent.parent / "docs" / "clients.md"


def rows(text):
    return [line for line in text.splitlines() if re.fullmatch(r"\|( .* \|){4}", line)]


def test_every_script_is_a_client():
    scripts = {path.stem.removeprefix("with_") for path in clients.FOLDER.glob("with_*.py")}
    assert scripts == set(clients.CLIENTS)


def test_the_page_has_a_row_for_each_client():
    assert len(rows(PAGE.read_text())) == 2 + len(clients.CLIENTS)  # with the header


@pytest.fixture
def outcome(capsys):
    def outcome_of(**tried):
        with pytest.raises(SystemExit) as stopped:
            attempt("Some client", None, tried)
        (line,) = rows(capsys.readouterr().out)
        return bool(stopped.value.code), line

    return outcome_of


def test_what_passed_is_one_line_with_remarks(outcome):
    assert outcome(first=lambda: None, second=lambda: "2 | 3") == (
        False,
        r"| Some client | - | first, second | passed (2 \| 3) |",
    )


def test_a_failure_is_named_and_the_rest_is_tried(outcome):
    def fail():
        raise ValueError("expected this\nand that")

    reached = []
    assert outcome(first=fail, second=lambda: reached.append(1)) == (
        True,
        "| Some client | - | first, second | failed at first: ValueError: expected this |",
    )
    assert reached


def test_a_script_that_cannot_start_has_a_row(tmp_path):
    row = clients.row_of("unknown", tmp_path / "log")
    assert row.startswith("| unknown | - | - | failed: ")
    assert "No module named tests.clients.with_unknown" in row
    assert "No module named" in (tmp_path / "log").read_text()
