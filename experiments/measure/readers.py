"""The values in the files that steps write, also while they are written."""

import statistics
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_patch_env.checks import InputError, counted
from vit_patch_env.experiments.bench.report import ratios
from vit_patch_env.experiments.bench.step_modes import EAGER, medians
from vit_patch_env.experiments.measure.values import Value
from vit_patch_env.experiments.run_folder.folder import RESULT, RunFolder
from vit_patch_env.reading import JSON_BYTES, read_bytes, read_json

OUTCOMES = ("passed", "failed", "skipped")


def read_machine(path: Path) -> Iterator[Value]:
    """What `machine.py` has written."""
    for name, one in _json(path).items():
        yield Value(name, one["value"], one["unit"])


def read_tests(path: Path) -> Iterator[Value]:
    """How many tests had which outcome, and which have failed, from pytest's JUnit file.

    There are no values before the file is complete: pytest writes it at its end, in place.
    """
    if not path.is_file():
        return
    try:
        suites = ET.fromstring(read_bytes(path, JSON_BYTES, "XML"))
    except ET.ParseError:  # half of it is written, or pytest was killed
        return
    outcomes: dict[str, list[str]] = {outcome: [] for outcome in OUTCOMES}
    for case in suites.iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "passed"
        outcome = "skipped" if "skipped" in kinds else outcome
        outcomes[outcome].append(str(case.get("name")))
    for outcome, names in outcomes.items():
        yield Value(outcome, len(names), "tests")
    for name in outcomes["failed"]:
        yield Value(f"failed: {name}", 1, "tests")


def read_bench(folder: Path) -> Iterator[Value]:
    """Medians of what `vit-patch bench` has measured."""
    bench = _json(folder / "bench.json")
    for one in bench.get("contenders", ()):
        of = _of(one["name"], one["n_patches"])
        for key, what in (("step_seconds", "step"), ("epoch_step_seconds", "epoch, per step")):
            if one[key]:
                yield Value(f"{of}: {what}", 1000 * statistics.median(one[key]), "ms")
        if one["epoch_step_seconds"]:
            rate = bench["batch_size"] / statistics.median(one["epoch_step_seconds"])
            yield Value(f"{of}: epoch", rate, "images/s")
        if one["peak_memory_bytes"]:
            yield Value(f"{of}: peak memory", one["peak_memory_bytes"] / 1e9, "GB")
        if one["idle_share"] is not None:
            yield Value(f"{of}: share of the time that the GPU is idle", one["idle_share"])
    if bench:
        for name, values in ratios(bench).items():
            yield Value(name, statistics.median(values))
        yield from _skipped(bench)


def read_model_bench(folder: Path) -> Iterator[Value]:
    """Medians of what `vit-patch bench --model` has measured."""
    bench = _json(folder / "bench.json")
    contenders = [one for one in bench.get("contenders", ()) if one["step_seconds"]]
    for one in contenders:
        of = _of(one["name"], one["n_patches"])
        times, whole = one["step_seconds"], contenders[0]["step_seconds"]
        ratio = statistics.median(a / b for a, b in zip(times, whole, strict=False))
        yield Value(f"{of}: step", 1000 * statistics.median(times), "ms")
        if one is not contenders[0]:
            yield Value(f"{of}: step, over that on all patches", ratio)


def read_modes(folder: Path) -> Iterator[Value]:
    """Medians of what `vit-patch bench --modes` has measured, and the fastest modes."""
    bench = _json(folder / "bench.json")
    if not bench:
        return
    memory = {
        (one["n_patches"], one["name"]): one["peak_memory_bytes"] for one in bench["contenders"]
    }
    for n_patches, name, median, ratio in medians(bench):
        of = _of(name, n_patches)
        yield Value(f"{of}: step", 1000 * median, "ms")
        if name != EAGER:
            yield Value(f"{of}: step, over eager", ratio)
        if memory[n_patches, name] is not None:
            yield Value(f"{of}: peak memory", memory[n_patches, name] / 1e9, "GB")
    yield from _skipped(bench)
    for number, name in bench["fastest"].items():
        yield Value(f"fastest at {counted(int(number), 'patch')}", name)


def read_comparison(folder: Path) -> Iterator[Value]:
    """Accuracies and times of the runs that are finished."""
    for path in sorted(folder.glob(f"runs/*/{RESULT}")):
        result = RunFolder(path.parent).read_result()
        method, _, seed = path.parent.name.rpartition("__")
        of = f"{method}, seed {seed}"
        accuracy = result["test"]["all_patches"]["accuracy"]
        if accuracy is not None:  # after a divergence
            yield Value(f"{of}: test accuracy on all patches", accuracy)
        yield Value(f"{of}: training time", result["train_seconds"], "s")
        yield Value(f"{of}: the agent's time", result["agent_seconds"], "s")


def _skipped(bench: dict[str, Any]) -> Iterator[Value]:
    """What could not be measured, and why."""
    for one in bench["skipped"]:
        yield Value(f"{_of(one['name'], one['n_patches'])}: skipped", one["reason"])


def _of(name: str, n_patches: int) -> str:
    """What a value is of."""
    return f"{name}, {counted(n_patches, 'patch')}"


def _json(path: Path) -> dict[str, Any]:
    """The content of a file; empty until it is written."""
    try:
        return read_json(path) if path.is_file() else {}
    except InputError:  # it has just been removed
        return {}
