"""`vit-patch measure`: its steps on a CPU, its time limit, its files, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from rich.console import Console

from tests.test_cli import refused
from vit_patch_env.checks import InputError
from vit_patch_env.experiments.bench.benchmark import Bench
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.compare.comparison import Comparison
from vit_patch_env.experiments.measure import machine, measurement
from vit_patch_env.experiments.measure.machine import parse_answer
from vit_patch_env.experiments.measure.measurement import Measurement
from vit_patch_env.experiments.measure.page import page
from vit_patch_env.experiments.measure.process import Process
from vit_patch_env.experiments.measure.readers import read_bench, read_tests
from vit_patch_env.experiments.measure.steps import Step, make_steps
from vit_patch_env.experiments.measure.values import Value, ValueFile
from vit_patch_env.experiments.options.commands import MeasureOptions, MeasureStep
from vit_patch_env.training import compiled, trainer

CPU = torch.device("cpu")

ROOT = Path(__file__).parent.parent


def lines_of(out):
    return [json.loads(line) for line in (out / "figures.jsonl").read_text().splitlines()]


def names_of(out, step):
    return [line["name"] for line in lines_of(out) if line["step"] == step]


def states_of(out):
    steps = json.loads((out / "measure.json").read_text())["steps"]
    return {name: one["state"] for name, one in steps.items()}


def status_of(run):
    """The exit status of what `run` calls."""
    try:
        run()
    except SystemExit as stop:
        return stop.code
    return 0


class Here:
    """A command of a step that has run in this process, as starting others takes long."""

    def __init__(self, words, log):
        program, *rest = words
        if program == "vit-patch":
            self.status = status_of(lambda: main(rest))
        else:
            assert rest[1].endswith("measure.machine")
            self.status = status_of(lambda: machine.main(rest[2:]))

    def wait(self, seconds):
        return self.status

    def stop(self, seconds):
        pass

    def kill(self):
        pass


def measure(out, start=Process, **options):
    """Measurements on a CPU at the smallest sizes; their exit status."""
    console = Console(quiet=True)
    options = MeasureOptions(device="cpu", small=True, out=str(out), **options)
    measurements = Measurement(options, console, start)
    measurements.prepare()
    return status_of(measurements.run)


@pytest.mark.long
def test_steps_are_measured_at_the_smallest_sizes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("timm")
    monkeypatch.setattr(trainer, "compiled_forward", compiled.forward)  # compiling takes long
    out = tmp_path / "out"
    steps = ("machine", "modes-table1", "bench-timm")
    assert measure(out, Here, steps=steps) == 0
    assert states_of(out) == dict.fromkeys(steps, "done")
    assert {"device", "torch", "memory"} <= set(names_of(out, "machine"))
    modes = names_of(out, "modes-table1")
    for n_patches in ("16 patches", "8 patches", "4 patches", "1 patch"):
        assert f"compiled, {n_patches}: step, over eager" in modes
        assert f"CUDA graphs, {n_patches}: skipped" in modes
        assert f"fastest at {n_patches}" in modes
    assert "the library's own, 100 patches: step" in names_of(out, "bench-timm")
    for line in lines_of(out):
        assert line.keys() == {
            "step", "name", "value", "unit", "command", "machine", "versions", "time"
        }  # fmt: skip
        parse(line["command"].split()[1:]) if line["step"] != "machine" else None
    before = lines_of(out)
    assert measure(out, pytest.fail, steps=steps) == 0  # nothing is left to be started
    assert lines_of(out) == before
    shown = (out / "README.md").read_text()
    assert "| `table2` | not measured |" in shown
    assert "| fastest at 16 patches | " in shown


@pytest.mark.long
def test_everything_is_measured_at_the_smallest_sizes_and_in_processes(tmp_path, monkeypatch):
    for package in ("timm", "vit_pytorch"):
        pytest.importorskip(package)
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "vit_patch_env.experiments", "measure", "--small"]
    done = subprocess.run(
        [*command, "--device", "cpu", "--out", str(out)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    expected = dict.fromkeys(get_args(MeasureStep), "done")
    if not torch.cuda.is_available():
        expected["tests"] = "skipped"
    assert states_of(out) == expected
    assert "simple_vit, seed 0: test accuracy on all patches" in names_of(out, "table2")
    assert "random8, seed 0: training time" in names_of(out, "budget")
    assert "ours, 16 patches: step" in names_of(out, "bench")
    assert (out / "table2" / "report.md").exists()
    assert (out / "budget" / "report.md").exists()


@pytest.mark.parametrize("small", [True, False])
def test_the_commands_of_all_steps_are_understood(small, tmp_path):
    options = MeasureOptions(small=small, dataset="folder", data_dir="images", epochs=3)
    steps = make_steps(options, torch.device("cuda"), tmp_path)
    assert [step.name for step in steps] == list(get_args(MeasureStep))
    for step in steps:
        for program, *words in step.commands:
            if program == "vit-patch":
                parsed = parse(words)
                assert words[0] == "report" or getattr(parsed, "env", parsed).device == "cuda"
    tests = next(step for step in steps if step.name == "tests").commands[0]
    assert any(word.endswith("test_cuda.py") for word in tests)


@pytest.mark.long
def test_the_commands_of_all_steps_are_possible_at_their_full_sizes(tmp_path):
    pytest.importorskip("timm")
    kinds = {"bench": Bench, "compare": Comparison}
    for step in make_steps(MeasureOptions(), CPU, tmp_path):
        for program, *words in step.commands:
            if program == "vit-patch" and words[0] in kinds:
                prepared = kinds[words[0]](parse(words), Console(quiet=True))
                prepared.prepare()
                if words[0] == "compare":
                    prepared.lock.release()


SLOW = """
import json, subprocess, sys, time
from pathlib import Path
if len(sys.argv) > 3: exec(sys.argv[3])
child = subprocess.Popen(["sleep", "1000"])
for index in range(int(sys.argv[2])):
    Path(sys.argv[1]).write_text(json.dumps({"rounds": index + 1, "child": child.pid}))
    time.sleep(0.1)
child.kill()
"""
"""Counts rounds of 0.1 s in a file, with a process of its own."""

IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """Lets steps take the place of the real ones: by name, Python code and its arguments."""

    def replace(**codes):
        def make(options, device, out):
            return [made(name, *code) for name, code in codes.items()]

        def made(name, code, *args):
            path = tmp_path / f"{name}.json"

            def read():
                content = json.loads(path.read_text()) if path.exists() else {}
                yield from (Value(one, value, "s") for one, value in content.items())

            return Step(name, 0.0, (("python", "-c", code, str(path), *args),), read)

        monkeypatch.setattr(measurement, "make_steps", make)
        monkeypatch.setattr(measurement, "_POLL_SECONDS", 0.1)

    return replace


def is_running(pid):
    """Whether a process runs; one that has ended may wait for its parent."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children_of(out):
    return [line["value"] for line in lines_of(out) if line["name"] == "child"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("ignoring", ["pass", IGNORES_SIGTERM])
def test_a_time_limit_stops_all_keeps_what_was_measured_and_is_resumed(
    ignoring, steps, tmp_path, monkeypatch
):
    out = tmp_path / "out"

    def monotonic():
        """A clock that jumps to the time limit when something has been measured of `slow`."""
        is_known = (out / "figures.jsonl").exists() and len(names_of(out, "slow")) > 2
        return time.monotonic() + 3600 * is_known

    monkeypatch.setattr(measurement, "time", SimpleNamespace(monotonic=monotonic))
    monkeypatch.setattr(measurement, "_END_SECONDS", 1.0)
    steps(quick=(SLOW, "1"), slow=(SLOW, "1000", ignoring), later=(SLOW, "1"))
    assert measure(out, minutes=30.0) == 3
    assert states_of(out) == {"quick": "done", "slow": "stopped"}
    rounds = [line["value"] for line in lines_of(out) if line["step"] == "slow"]
    assert len(rounds) > 2
    assert not any(map(is_running, children_of(out)))
    assert "| `slow` | stopped by the time limit |" in (out / "README.md").read_text()
    n_quick = len(names_of(out, "quick"))
    steps(quick=(SLOW, "1"), slow=(SLOW, "2"), later=(SLOW, "1"))
    assert measure(out) == 0
    assert states_of(out) == dict.fromkeys(("quick", "slow", "later"), "done")
    assert len(names_of(out, "quick")) == n_quick  # it was not measured again
    assert not any(map(is_running, children_of(out)))


def test_a_step_that_would_give_nothing_in_the_time_left_is_not_started(tmp_path, monkeypatch):
    long, short = (
        Step(name, seconds, (("python", "-c", "pass"),), lambda: iter(()))
        for name, seconds in (("long", 300.0), ("short", 10.0))
    )
    monkeypatch.setattr(measurement, "make_steps", lambda *_: [long, short])
    options = MeasureOptions(device="cpu", minutes=1.0, out=str(tmp_path / "out"))
    measurements = Measurement(options, Console(quiet=True))
    measurements.prepare()
    assert status_of(measurements.run) == 3
    assert states_of(tmp_path / "out") == {"short": "done"}


def test_a_step_that_fails_leaves_the_others(steps, tmp_path):
    out = tmp_path / "out"
    failing = "print('first'); raise SystemExit('no such thing')"
    steps(bad=(failing,), killed=("import os; os.kill(os.getpid(), 9)",), good=(SLOW, "1"))
    assert measure(out) == 1
    assert states_of(out) == {"bad": "failed", "killed": "failed", "good": "done"}
    content = json.loads((out / "measure.json").read_text())["steps"]
    assert content["bad"]["reason"] == f"no such thing (log: {out / 'bad.log'})"
    assert content["killed"]["reason"].startswith("killed by signal 9")
    assert "first\nno such thing\n" in (out / "bad.log").read_text()
    steps(bad=(SLOW, "1"), killed=(SLOW, "1"), good=("raise SystemExit('again')",))
    assert measure(out) == 0  # those that failed are tried again


def test_how_other_steps_have_ended_says_nothing_of_the_chosen_ones(steps, tmp_path):
    out = tmp_path / "out"
    steps(machine=(SLOW, "1"), bench=("raise SystemExit('no such thing')",))
    assert measure(out) == 1
    assert measure(out, pytest.fail, steps=("machine",)) == 0  # there is nothing to do
    assert states_of(out) == {"machine": "done", "bench": "failed"}


def test_a_failed_step_that_the_time_is_not_enough_for_is_left(steps, tmp_path, capsys):
    out = tmp_path / "out"
    steps(bad=("raise SystemExit('no such thing')",), good=(SLOW, "1"))
    words = ["measure", "--device", "cpu", "--small", "--out", str(out)]
    assert status_of(lambda: main(words)) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == "Failed: bad. The same command continues there."
    assert status_of(lambda: main([*words, "--minutes", "0.0001"])) == 3
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == "Left: bad. The same command continues there."
    assert states_of(out) == {"good": "done"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_signal_stops_all(steps, tmp_path):
    out = tmp_path / "out"
    steps(slow=(SLOW, "1000"), later=(SLOW, "1"))

    def send():
        while not (out / "figures.jsonl").exists() or not children_of(out):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    assert measure(out) == 128 + signal.SIGTERM
    assert states_of(out) == {"slow": "stopped"}
    assert not any(map(is_running, children_of(out)))


def test_a_missing_package_skips_a_step(tmp_path, monkeypatch):
    step = Step("tests", 0.0, (), lambda: iter(()), missing="pytest is not installed")
    monkeypatch.setattr(measurement, "make_steps", lambda *_: [step])
    assert measure(tmp_path / "out") == 0
    content = json.loads((tmp_path / "out" / "measure.json").read_text())["steps"]["tests"]
    assert (content["state"], content["reason"]) == ("skipped", "pytest is not installed")


JUNIT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase name="a"/><testcase name="b"><failure message="no"/></testcase>
<testcase name="c"><error/></testcase><testcase name="d"><skipped/></testcase>
</testsuite></testsuites>"""


def test_outcomes_of_tests_are_read(tmp_path, monkeypatch):
    path = tmp_path / "tests.xml"
    assert list(read_tests(path)) == []
    path.write_text(JUNIT)
    values = {one.name: one.value for one in read_tests(path)}
    assert values == {"passed": 1, "failed": 2, "skipped": 1, "failed: b": 1, "failed: c": 1}
    path.write_text('<testsuite><testcase name="a"><skipped/></testcase></testsuite>')
    step = Step("tests", 0.0, (), lambda: read_tests(path))
    monkeypatch.setattr(measurement, "make_steps", lambda *_: [step])
    assert measure(tmp_path / "out") == 0
    assert states_of(tmp_path / "out") == {"tests": "skipped"}  # not done


@pytest.mark.parametrize("n_written", [0, 30, len(JUNIT) - 1])
def test_a_part_of_the_outcomes_of_tests_has_no_values(n_written, tmp_path):
    path = tmp_path / "tests.xml"
    path.write_text(JUNIT[:n_written])
    assert list(read_tests(path)) == []


def test_a_repeated_step_does_not_read_what_it_wrote_before(tmp_path, monkeypatch):
    path, out = tmp_path / "tests.xml", tmp_path / "out"
    path.write_text(JUNIT)
    killed = "import os; os.kill(os.getpid(), 9)"
    step = Step("tests", 0.0, (("python", "-c", killed),), lambda: read_tests(path), written=path)
    monkeypatch.setattr(measurement, "make_steps", lambda *_: [step])
    assert measure(out) == 1
    assert not (out / "figures.jsonl").exists()


def test_steps_that_resume_keep_their_files(tmp_path):
    resumed = {one.name for one in make_steps(MeasureOptions(), CPU, tmp_path) if not one.written}
    assert resumed == {"table2", "budget"}


def test_values_of_a_benchmark_are_read(tmp_path):
    assert list(read_bench(tmp_path)) == []
    (tmp_path / "bench.json").write_bytes((ROOT / "docs" / "bench.json").read_bytes())
    values = {one.name: one for one in read_bench(tmp_path)}
    assert values["ours, 64 patches: step"] == (
        "ours, 64 patches: step",
        pytest.approx(2044, abs=1),
        "ms",
    )
    assert values["speed-up over vit-pytorch"].value == pytest.approx(3.3, abs=0.05)


def test_values_are_added_once_each_and_survive_a_killed_process(tmp_path):
    path = tmp_path / "figures.jsonl"
    versions = {"torch": "2"}
    file = ValueFile(path, "a machine", versions)
    file.add("a", "run", [Value("x", 1.5, "ms"), Value("y", "text"), Value("z", float("nan"))])
    file.add("a", "run", [Value("x", 1.5, "ms"), Value("y", "other")])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": "a", "na')
    again = ValueFile(path, "another", versions)
    assert path.read_bytes() == whole
    again.add("a", "run", [Value("x", 1.5, "ms"), Value("x", 2.0, "ms")])
    assert [(one["name"], one["value"]) for one in lines_of(tmp_path)] == [
        ("x", 1.5), ("y", "text"), ("y", "other"), ("x", 2.0)
    ]  # fmt: skip
    shown = page(again.read(), {"a": "done"})
    assert "| x | 2 | ms |" in shown
    assert "| y | other |  |" in shown
    assert "on another (torch 2); a machine (torch 2)." in shown


@pytest.mark.parametrize("line", [b"text", b"[]", b'{"step": "a"}', b"\xff"])
def test_a_file_of_something_else_is_refused(line, tmp_path):
    path = tmp_path / "figures.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(InputError, match=r"measured values in .*, got something else in line 1"):
        ValueFile(path, "a machine", {})


def test_a_page_shows_names_as_they_are(tmp_path):
    file = ValueFile(tmp_path / "figures.jsonl", "a <b> | machine", {})
    file.add("a", "run <!-- x", [Value("[x](y) | z", "<script>")])
    shown = page(file.read(), {"a": "failed: | no"})
    assert "<script>" not in shown
    assert r"| \[x\](y) \| z | &lt;script> |  |" in shown
    assert r"| `a` | failed: \| no |" in shown


def test_the_answer_of_nvidia_smi_is_read():
    found = parse_answer("590.48.01, 345, 1980, 2619, 700.00, 31, [N/A]\n")
    assert found == {
        "driver": ("590.48.01", ""), "SM clock now": (345, "MHz"),
        "highest SM clock": (1980, "MHz"), "memory clock now": (2619, "MHz"),
        "power limit": (700, "W"), "temperature": (31, "°C"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--minutes", "0"], "--minutes must be in (0, inf), got 0"),
        (["--minutes", "soon"], "--minutes must be"),
        (["--device", "tpu"], "--device must be auto, cpu, cuda"),
        (["--steps", "everything"], "--steps must be"),
        (["--dataset", "nothing"], "--dataset must be one of"),
        (["--jobs", "0"], "--jobs must be in [1, 10^9], got 0"),
        (["--out", "{other}"], "--out must be a new folder, or one that vit-patch measure wrote, "
         "got {other}, which holds notes.txt"),
        (["--out", "{other}/notes.txt"], "--out must be a folder, got {other}/notes.txt"),
        (["--out", "{made}"], "--out must be a folder without other measurements, got {made}, made "
         "with --small True instead of False"),
        (["--small", "--out", "{damaged}"], "measure.json"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(args, message, tmp_path, capsys, monkeypatch):
    folders = {name: tmp_path / name for name in ("other", "made", "damaged")}
    folders["other"].mkdir()
    (folders["other"] / "notes.txt").touch()
    monkeypatch.setattr(measurement, "make_steps", lambda *_: [])
    for name in ("made", "damaged"):
        assert measure(folders[name]) == 0
    (folders["damaged"] / "measure.json").write_text("{}")
    capsys.readouterr()
    words = [word.format(**folders) for word in args]
    given = [] if "--device" in words else ["--device", "cpu"]
    given += [] if "--out" in words else ["--out", str(tmp_path / "new")]
    assert message.format(**folders) in refused(capsys, "measure", *given, *words)
    assert not (tmp_path / "new").exists()


def test_a_device_that_is_not_there_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    words = ["measure", "--device", "cuda", "--out", str(tmp_path / "new")]
    assert "--device 'cuda' needs a CUDA device, got 0 of them" in refused(capsys, *words)
