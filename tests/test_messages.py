"""Messages of the command line."""

import io

import pytest

from vit_patch_env.checks import ArgumentError, check_integer
from vit_patch_env.experiments.process.messages import fail, option_name, say, show_warning
from vit_patch_env.experiments.process.output import BestEffortOutput


@pytest.mark.parametrize(
    ("argument", "option"),
    [
        ("seed", "--seed"),
        ("image_size", "--image-size"),
        ("env.image_size", "--image-size"),
        ("dqn.tau", "--dqn.tau"),
        ("dqn.exploration_initial_eps", "--dqn.exploration-initial-eps"),
    ],
)
def test_option_names(argument, option):
    assert option_name(argument) == option


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ArgumentError("env.image_size", "must be an integer, got 2.5"),
            "--image-size must be an integer, got 2.5",
        ),
        # Not an argument, so it stays as it is.
        (ArgumentError("train images", "must be 36, got 54"), "train images must be 36, got 54"),
        (ValueError("image_size\nis odd"), "image_size is odd"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        ("out of  memory", "out of memory"),
    ],
)
def test_fail_prints_one_line_and_exits_with_status_2(error, line, capsys):
    with pytest.raises(SystemExit) as stop:
        fail(error)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"vit-patch: {line}\n"


def test_fail_names_the_option_of_a_checked_argument(capsys):
    with pytest.raises(ArgumentError) as caught:
        check_integer(1, batch_size=0)
    with pytest.raises(SystemExit):
        fail(caught.value)
    assert capsys.readouterr().err.startswith("vit-patch: --batch-size must be in [1, inf), got 0")


def test_warnings_are_printed_in_one_line(capsys):
    show_warning(UserWarning("a\nb"), UserWarning, "file.py", 3)
    assert capsys.readouterr().err == "vit-patch: warning: a b\n"


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")

    def flush(self):
        raise OSError(28, "No space left on device")


def test_output_that_cannot_be_written_is_ignored(monkeypatch):
    monkeypatch.setattr("sys.stderr", Full())
    say("a")
    output = BestEffortOutput(Full())
    assert output.write("abc") == 3
    output.flush()
    assert output.isatty() is False
