"""What `vit-patch measure` measures: steps in their order, each with commands and files."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from vit_patch_env.experiments.measure.readers import (
    read_bench,
    read_comparison,
    read_machine,
    read_model_bench,
    read_modes,
    read_tests,
)
from vit_patch_env.experiments.measure.values import Value
from vit_patch_env.experiments.options.commands import MeasureOptions

ROOT = Path(__file__).resolve().parents[2]
"""Of the repository, if this is run from one."""

Words = tuple[str, ...]


class Step(NamedTuple):
    """A part of the measurements.

    Attributes:
        name: of the step.
        seconds: fewer do not give a single value on a GPU.
        commands: run one after the other.
        read: the values that its files hold so far.
        missing: why it is not possible here; empty if it is.
        written: file that it writes anew when it is repeated; None if its commands resume.
    """

    name: str
    seconds: float
    commands: tuple[Words, ...]
    read: Callable[[], Iterator[Value]]
    missing: str = ""
    written: Path | None = None


class _Scale(NamedTuple):
    """How much is measured.

    Attributes:
        modes: options of `bench --modes`, by the step's name.
        bench: options of `bench`.
        library: options of `bench` for a model of timm.
        compared: options of all comparisons.
        methods: of each comparison, by its preset.
        epochs: of their runs.
    """

    modes: dict[str, Words]
    bench: Words
    library: Words
    compared: Words
    methods: dict[str, Words]
    epochs: int


def _words(text: str) -> Words:
    return tuple(text.split())


_VIT_B = (
    "--image-size 224 --patch-size 16 --dim 768 --depth 12 --heads 12 --dim-head 64 --mlp-dim 3072"
)

_TINY = "--dim 16 --depth 1 --heads 2 --dim-head 8 --mlp-dim 16"

FULL = _Scale(
    modes={
        "modes-table1": _words("--batch-size 128 --repeats 5 --steps 20"),
        "modes-vit-b": _words(f"{_VIT_B} --batch-size 64 --repeats 5 --steps 5"),
    },
    bench=_words("--batch-size 128 --repeats 3 --max-repeats 5 --steps 20 --epoch-steps 20"),
    library=_words("--model timm:vit_small_patch16_224 --batch-size 128 --repeats 5 --steps 10"),
    compared=_words("--seeds 0 1"),
    methods={
        "table2": _words("simple_vit agentvit random quadratic_spread"),
        "budget": _words("simple_vit pretrained quadratic_spread random16"),
    },
    epochs=20,
)

SMALL = _Scale(
    modes={
        "modes-table1": _words(f"{_TINY} --image-size 16 --batch-size 2 --repeats 2 --steps 1"),
        "modes-vit-b": _words(f"{_TINY} --image-size 32 --batch-size 2 --repeats 2 --steps 1"),
    },
    bench=_words(
        "--n-patches 16 --batch-size 2 --repeats 1 --max-repeats 1 --steps 1 --epoch-steps 10"
    ),
    library=_words("--model timm:test_vit --batch-size 2 --repeats 1 --steps 1"),
    compared=_words(f"--seeds 0 --train-fraction 0.1 --batch-size 32 --patch-size 8 {_TINY}"),
    methods={"table2": ("simple_vit",), "budget": ("random8",)},
    epochs=1,
)


def make_steps(options: MeasureOptions, device: torch.device, out: Path) -> list[Step]:
    """All steps.

    Args:
        options: of the command.
        device: to measure on.
        out: folder that they write to.
    """
    scale = SMALL if options.small else FULL
    bench = partial(_bench, device, out)
    data: Words = ("--dataset", options.dataset)
    if options.data_dir is not None:
        data += ("--data-dir", options.data_dir)
    return [
        _machine(device, out),
        _cuda_tests(out),
        *(
            bench(name, 30.0, read_modes, ("--model", "simple_vit", "--modes", *words))
            for name, words in scale.modes.items()
        ),
        bench("bench", 60.0, read_bench, (*data, *scale.bench)),
        bench(
            "bench-timm", 30.0, read_model_bench, scale.library,
            missing="" if importlib.util.find_spec("timm") else "timm is not installed",
        ),
        *(
            _comparison(preset, methods, (*data, *scale.compared), options, device, out)
            for preset, methods in scale.methods.items()
        ),
    ]  # fmt: skip


def epochs(options: MeasureOptions) -> int:
    """Passes over the training images in the runs of comparisons."""
    return options.epochs or (SMALL if options.small else FULL).epochs


def _machine(device: torch.device, out: Path) -> Step:
    path = out / "machine.json"
    module = "vit_patch_env.experiments.measure.machine"
    command = ("python", "-m", module, str(device), str(path))
    return Step("machine", 5.0, (command,), partial(read_machine, path), written=path)


def _cuda_tests(out: Path) -> Step:
    """The tests that need CUDA; where there is none, pytest skips them."""
    path = out / "tests.xml"
    tests = sorted(
        one
        for one in (ROOT / "tests").glob("test_*.py")
        if "mark.cuda" in one.read_text(encoding="utf-8")
    )
    missing = "" if tests else "there are no tests: they are in the repository"
    if importlib.util.find_spec("pytest") is None:
        missing = "pytest is not installed"
    command = (
        "pytest", "-m", "cuda", "-c", os.path.relpath(ROOT / "pyproject.toml"),
        "-p", "no:cacheprovider", f"--junitxml={path.absolute()}",
        *(os.path.relpath(one) for one in tests),
    )  # fmt: skip
    return Step("tests", 30.0, (command,), partial(read_tests, path), missing, path)


def _bench(
    device: torch.device,
    out: Path,
    name: str,
    seconds: float,
    read: Callable[[Path], Iterator[Value]],
    words: Words,
    missing: str = "",
) -> Step:
    """A benchmark."""
    command = ("vit-patch", "bench", *words, "--device", str(device), "--out", str(out / name))
    written = out / name / "bench.json"
    return Step(name, seconds, (command,), partial(read, out / name), missing, written)


def _comparison(
    preset: str,
    methods: Words,
    words: Words,
    options: MeasureOptions,
    device: torch.device,
    out: Path,
) -> Step:
    """A comparison, which resumes its runs by itself, and its report."""
    folder = str(out / preset)
    compare = (
        "vit-patch", "compare", "--preset", preset, "--methods", *methods, *words,
        "--epochs", str(epochs(options)), "--jobs", str(options.jobs),
        "--checkpoint-every", "30s", "--device", str(device), "--out", folder,
    )  # fmt: skip
    report = ("vit-patch", "report", folder)
    return Step(preset, 45.0, (compare, report), partial(read_comparison, out / preset))
