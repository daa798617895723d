"""`vit-patch bench --model MODEL --modes`: steps as usual, compiled, and by CUDA graphs.

Whole training steps by the package's trainer, which wait for the loss as training does, in one
process; interleaved. Which way is fastest depends on how much of a step the GPU waits for the host,
and so on the number of patches.
"""

import copy
import statistics
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from vit_patch_env.checks import InputWarning, counted
from vit_patch_env.data.batches import Batch
from vit_patch_env.experiments.bench.measuring import seconds
from vit_patch_env.experiments.bench.model_steps import N_CLASSES, ModelBench
from vit_patch_env.experiments.process.output import TextTable, print_line, print_table
from vit_patch_env.patches.grid import size_text
from vit_patch_env.system.shown import escaped
from vit_patch_env.training.graphed import WARM_UP_STEPS, StepGraphs, graphs_for
from vit_patch_env.training.trainer import Trainer

EAGER, COMPILED, GRAPHS = "eager", "compiled", "CUDA graphs"
MODES = (EAGER, COMPILED, GRAPHS)
"""Names in tables and in bench.json."""

PARTS = (1, 2, 4, 16)
"""Of the patches, one of so many is trained on."""


class ModeBench(ModelBench):
    """A benchmark of the ways to compute a model's training steps; arguments as `ModelBench`."""

    def run(
        self, console: Console, write: Callable[[dict[str, Any]], None] = lambda content: None
    ) -> dict[str, Any]:
        """Measure all steps.

        Args:
            console: to print to.
            write: called with the content so far, after each number of patches.

        Returns:
            The content of bench.json.
        """
        content = self.settings() | {"contenders": [], "skipped": []}
        trainers = {mode: self._mode_trainer(mode) for mode in MODES}
        for mode, (trainer, _) in trainers.items():
            self._allocate(mode, trainer)
        counts = dict.fromkeys(max(self.config.n_patches // part, 1) for part in PARTS)
        with console.status("measuring") as status:
            for n_keep in counts:
                status.update(f"measuring, {counted(n_keep, 'patch')}")
                for name, found in self._measured(n_keep, trainers).items():
                    place = "skipped" if "reason" in found else "contenders"
                    content[place].append({"name": name, "n_patches": n_keep, **found})
                content["fastest"] = fastest(content)
                write(content)
        show_modes(content, console)
        return content

    def _mode_trainer(self, mode: str) -> tuple[Trainer, StepGraphs | None]:
        """A trainer of a copy of the model, and its graphs where it has some."""
        device = self.precision.device
        model = copy.deepcopy(self.model)
        graphs = graphs_for(model, device) if mode == GRAPHS else None
        trainer = Trainer(
            model, self.precision, learning_rate=1e-5, compiled=mode == COMPILED, graphs=graphs
        )
        return trainer, graphs

    def _allocate(self, mode: str, trainer: Trainer) -> None:
        """Allocate gradients and the optimizer's state, which each number of patches has alike."""
        if unavailable(mode, self.precision.device):
            return
        try:
            self._steps_of(trainer, self.config.n_patches)(1)
        except Exception:  # a compiler may raise anything
            if mode == EAGER:
                raise
            # It is raised again, and written down, where this mode is measured.

    def _measured(
        self, n_keep: int, trainers: dict[str, tuple[Trainer, StepGraphs | None]]
    ) -> dict[str, dict[str, Any]]:
        """What is measured of each mode on a number of patches, or the reason why it is not."""
        options, device = self.options, self.precision.device
        found: dict[str, dict[str, Any]] = {}
        steps: dict[str, Callable[[int], None]] = {}
        for mode, (trainer, graphs) in trainers.items():
            train = self._steps_of(trainer, n_keep)
            if graphs is not None:
                graphs.clear()  # the memory of those before is not part of what this number needs
            memory = _Memory(device)
            reason = unavailable(mode, device) or _warmed_up(mode, train, graphs)
            found[mode] = {"reason": reason} if reason else {"step_seconds": []}
            if not reason:
                steps[mode] = train
                found[mode]["peak_memory_bytes"] = memory.needed()
        for _ in range(options.repeats):
            for mode, train in steps.items():
                taken = seconds(train, options.steps, device) / options.steps
                found[mode]["step_seconds"].append(taken)
        return found

    def _steps_of(self, trainer: Trainer, n_keep: int) -> Callable[[int], None]:
        """A function that trains a number of steps on a batch that is ready."""
        images, keep = self._images(), self._keep(n_keep)
        batch = Batch(images, torch.arange(len(images), device=images.device) % N_CLASSES)

        def train(n_steps: int) -> None:
            for _ in range(n_steps):
                trainer.step(batch, keep).item()

        return train

    def _keep(self, n_keep: int) -> Tensor | None:
        """Random patches; None for all."""
        if n_keep == self.config.n_patches:
            return None
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(self.config.n_patches, generator=generator, device="cpu")
        return order[:n_keep].sort().values.to(self.precision.device)


class _Memory:
    """Memory that a device must have free for what follows; none is measured on a CPU.

    Of a step after the first one that is what it needs beside weights, gradients and the
    optimizer's state.

    Args:
        device: to measure.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        if self._device is not None:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_reserved(self._device)

    def needed(self) -> int | None:
        """Bytes reserved in addition at the peak since then; graphs keep theirs."""
        if self._device is None:
            return None
        return torch.cuda.max_memory_reserved(self._device) - self._before


def unavailable(mode: str, device: torch.device) -> str:
    """Why a mode cannot be measured on a device; empty if it can."""
    return "needs a CUDA device" if mode == GRAPHS and device.type != "cuda" else ""


def _warmed_up(mode: str, train: Callable[[int], None], graphs: StepGraphs | None) -> str:
    """Train until a mode is at its speed; the reason if it cannot, else empty.

    Raises:
        Exception: of the model, if it cannot train as usual.
    """
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        try:
            train(WARM_UP_STEPS + 2)
        except Exception as error:  # a compiler may raise anything
            if mode == EAGER:
                raise
            return escaped(f"{type(error).__name__}: {error}")
    reasons = [str(one.message) for one in given if isinstance(one.message, InputWarning)]
    for one in given:
        if not isinstance(one.message, InputWarning):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if graphs is None or graphs.n_graphs:
        return ""
    return escaped(" ".join(reasons)) or "capturing has failed before"


def medians(bench: dict[str, Any]) -> Iterator[tuple[int, str, float, float]]:
    """Patches, name, median seconds of a step, and median of its ratios to those of `EAGER`."""
    eager = {c["n_patches"]: c["step_seconds"] for c in bench["contenders"] if c["name"] == EAGER}
    for one in bench["contenders"]:
        times, usual = one["step_seconds"], eager[one["n_patches"]]
        ratio = statistics.median(a / b for a, b in zip(times, usual, strict=True))
        yield one["n_patches"], one["name"], statistics.median(times), ratio


def fastest(bench: dict[str, Any]) -> dict[str, str]:
    """The mode with the shortest median, by the number of patches, which is a text as in JSON."""
    found: dict[str, tuple[float, str]] = {}
    for n_patches, name, median, _ in medians(bench):
        found[str(n_patches)] = min(found.get(str(n_patches), (median, name)), (median, name))
    return {n_patches: name for n_patches, (_, name) in found.items()}


def show_modes(bench: dict[str, Any], console: Console) -> None:
    """Print the table, and which mode is the fastest."""
    print_line(
        f"{bench['model']}, {bench['device']}, {counted(bench['threads'], 'thread')}, batches of "
        f"{bench['batch_size']} images of {size_text(bench['image_size'])}, {bench['precision']}. "
        "Medians (and range) over the repeats; a step is forward, backward and update.",
        console,
    )
    heads = ["patches", "step, ms", "of eager", "memory, GB"]
    table = TextTable("Training steps", [""], heads)
    for one, (n_patches, name, median, ratio) in zip(
        bench["contenders"], medians(bench), strict=True
    ):
        low, high = min(one["step_seconds"]), max(one["step_seconds"])
        memory = one["peak_memory_bytes"]
        table.add_row(
            name, str(n_patches), f"{1000 * median:.2f} ({1000 * low:.2f}-{1000 * high:.2f})",
            f"{ratio:.2f}", "" if memory is None else f"{memory / 1e9:.2f}",
        )  # fmt: skip
    for one in bench["skipped"]:
        table.add_row(one["name"], str(one["n_patches"]), "skipped")
    reasons = dict.fromkeys(f"{one['name']}: {one['reason']}" for one in bench["skipped"])
    if reasons:
        table.add_caption(f"Skipped: {'; '.join(reasons)}.")
    print_table(table, console)
    named = (
        f"{name} at {counted(int(n_patches), 'patch')}"
        for n_patches, name in bench["fastest"].items()
    )
    print_line(f"Fastest: {', '.join(named)}.", console)
