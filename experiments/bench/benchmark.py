"""`vit-patch bench`: training steps and epochs, compared with baselines and matmul throughput.

Each contender has its own process, which waits while others are measured: measurements are
interleaved, and each contender has its own peak memory.
"""

import importlib.util
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.status import Status

from vit_patch_env import load_dataset
from vit_patch_env.arguments import declared
from vit_patch_env.checks import ArgumentError, check_integer, counted, named, shown
from vit_patch_env.config.model import SizeConfig
from vit_patch_env.data.datasets import check_dataset
from vit_patch_env.experiments.bench.measuring import matrix_ceiling, step_flops
from vit_patch_env.experiments.bench.model_steps import ModelBench
from vit_patch_env.experiments.bench.report import plot_bench, show_bench, unstable_ratios
from vit_patch_env.experiments.bench.setups import SETUPS, Measurements, Setup
from vit_patch_env.experiments.bench.step_modes import ModeBench
from vit_patch_env.experiments.bench.worker import Worker
from vit_patch_env.experiments.options.commands import BENCH_PATCHES, BenchOptions
from vit_patch_env.experiments.process.output import loaded, print_line
from vit_patch_env.experiments.run_folder.folder import (
    check_possible,
    device_name,
    provenance,
    write_json,
)
from vit_patch_env.training.precision import has_bf16, resolve_device, resolve_precision


class Bench:
    """A benchmark: call `prepare`, then `run`.

    Args:
        options: of the command.
        console: to print to.

    Attributes:
        device: to measure on, set by `prepare`.
        precision: of this package's matrix products, `fp32` or `bf16`, set by `prepare`.
        of_model: the benchmark of one model, where the options name one; set by `prepare`.
    """

    device: torch.device
    precision: str
    of_model: ModelBench | None = None

    def __init__(self, options: BenchOptions, console: Console) -> None:
        self.options = options
        self.console = console
        self.data: dict[str, Any] = {
            "name": options.dataset, "data_dir": options.data_dir, "images": "memory",
        }  # fmt: skip

    def prepare(self) -> None:
        """Check the options and load the images, which fills the cache for all processes.

        Raises:
            ValueError: for an unknown data set, model, device or precision, or options out of
                range or without use.
        """
        options = self.options
        check_possible(Path(options.out), "out")
        _check_used(options)
        if options.model is not None:
            device = resolve_device(options.device)
            kind = ModeBench if options.modes else ModelBench
            self.of_model = kind(options, resolve_precision(options.precision, device))
            return
        check_dataset(options.dataset, options.data_dir)
        if not options.n_patches or set(options.n_patches) - set(BENCH_PATCHES):
            raise ArgumentError(
                "n_patches",
                f"must be of {', '.join(map(str, BENCH_PATCHES))}, got {shown(options.n_patches)}",
            )
        self.device = resolve_device(options.device)
        self.precision = resolve_precision(options.precision, self.device).name
        if options.epoch_steps % 10 or options.epoch_steps < 10:
            raise ArgumentError(
                "epoch_steps",
                "must be a multiple of 10, as the agent learns every tenth step, "
                f"got {options.epoch_steps}",
            )
        data = loaded(options.dataset, partial(load_dataset, **self.data), self.console)
        check_integer(1, len(data.train.images), batch_size=options.batch_size)

    def run(self) -> dict[str, Any]:
        """Measure all contenders.

        Returns:
            The content of bench.json.

        Raises:
            MemoryError: for a batch that does not fit into memory, with a size that does.
        """
        if self.of_model is not None:
            bench = self.of_model.run(self.console, self._write)
            self._write(bench)
            print_line(f"Written to {self.options.out}.", self.console)
            return bench
        skipped = {setup: reason for setup in self._setups if (reason := self._missing(setup))}
        workers: dict[Setup, Worker] = {}
        try:
            with self.console.status("starting") as status:
                for setup in self._setups:
                    if setup not in skipped:
                        status.update(f"starting {setup.name}, {counted(setup.n_patches, 'patch')}")
                        shared = setup._replace(kind="ours") if setup.kind == "agent" else setup
                        workers[setup] = workers.get(shared) or self._start(shared)
                measured = {setup: self._measurements(setup) for setup in workers}
                self._repeat(workers, measured, skipped, status)
                status.update("profiling")
                _profile(workers, measured)
        finally:
            for worker in set(workers.values()):
                worker.close()
        bench = self._content(measured, skipped)
        self._write(bench)
        plot_bench(bench, Path(self.options.out) / "bench.png")
        show_bench(bench, self.console)
        print_line(f"Written to {self.options.out}.", self.console)
        return bench

    @property
    def _setups(self) -> list[Setup]:
        """The contenders that are measured."""
        numbers = self.options.n_patches
        return [one for one in SETUPS if one.is_baseline or one.n_patches in numbers]

    def _missing(self, setup: Setup) -> str | None:
        """Why a contender cannot be measured here, or None."""
        if setup.is_baseline and importlib.util.find_spec("vit_pytorch") is None:
            return "vit-pytorch is not installed (pip install vit-pytorch)"
        if not setup.is_baseline and self.precision == "bf16" and not has_bf16(self.device):
            return f"{device_name(self.device)} has no instructions for bf16"
        return None

    def _precision(self, setup: Setup) -> str:
        return "fp32" if setup.is_baseline else self.precision

    def _start(self, setup: Setup) -> Worker:
        batch_size, device = self.options.batch_size, str(self.device)
        start = partial(Worker, setup, self.data, device=device, precision=self._precision(setup))
        try:
            return start(batch_size=batch_size)
        except MemoryError as error:
            fitting = batch_size // 2
            while fitting:
                try:
                    start(batch_size=fitting).close()
                    break
                except MemoryError:
                    fitting //= 2
            advice = f"--batch-size {fitting} does" if fitting else "not even one image does"
            raise MemoryError(
                f"batches of {counted(batch_size, 'image')} of "
                f"{counted(setup.n_patches, 'patch')} do "
                f"not fit into the memory of {device_name(self.device)} with {setup.name}: {advice}"
            ) from error

    def _measurements(self, setup: Setup) -> Measurements:
        flops = step_flops(setup.n_patches, self.options.batch_size)
        return Measurements(setup.name, setup.n_patches, self._precision(setup), flops)

    def _repeat(
        self,
        workers: dict[Setup, Worker],
        measured: dict[Setup, Measurements],
        skipped: dict[Setup, str],
        status: Status,
    ) -> None:
        """Repeat all measurements until the ratios are stable or the limit is reached."""
        options, started = self.options, time.perf_counter()
        n_repeats, unstable = 0, [""]
        while n_repeats < options.repeats or (n_repeats < options.max_repeats and unstable):
            n_repeats += 1
            minutes = (time.perf_counter() - started) / 60
            status.update(f"repeat {n_repeats}, after {minutes:.0f} min")
            self._measure_once(workers, measured)
            bench = self._content(measured, skipped)
            self._write(bench)  # a later failure cannot lose it
            unstable = unstable_ratios(bench)
            if n_repeats >= options.repeats and unstable:
                print_line(
                    f"After {counted(n_repeats, 'repeat')} these vary too much: "
                    f"{', '.join(unstable)}.",
                    self.console,
                )

    def _measure_once(
        self, workers: dict[Setup, Worker], measured: dict[Setup, Measurements]
    ) -> None:
        """Measure every contender once: first the steps of all, then the epochs of all."""
        n_steps, n_epoch_steps = self.options.steps, self.options.epoch_steps
        for setup, worker in workers.items():
            if setup.kind == "agent":
                continue
            values = measured[setup]
            dtype = torch.bfloat16 if values.precision == "bf16" else torch.float32
            values.ceiling.append(matrix_ceiling(self.device, dtype))
            values.step_seconds.append(worker.ask("steps", n_steps) / n_steps)
        for setup, worker in workers.items():
            values = measured[setup]
            request = "epoch_alone" if setup.kind == "ours" else "epoch"
            seconds = worker.ask(request, n_epoch_steps)
            values.epoch_step_seconds.append(seconds / n_epoch_steps)
            if setup.kind == "agent":
                for part, part_seconds in worker.ask("parts").items():
                    per_step = values.agent_seconds.setdefault(part, [])
                    per_step.append(part_seconds / n_epoch_steps)

    def _content(
        self, measured: dict[Setup, Measurements], skipped: dict[Setup, str]
    ) -> dict[str, Any]:
        """The content of bench.json, without the provenance."""
        return {
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "batch_size": self.options.batch_size,
            "steps": self.options.steps,
            "epoch_steps": self.options.epoch_steps,
            "contenders": [asdict(values) for values in measured.values()],
            "skipped": [
                {"name": setup.name, "n_patches": setup.n_patches, "reason": reason}
                for setup, reason in skipped.items()
            ],
        }

    def _write(self, bench: dict[str, Any]) -> None:
        out = Path(self.options.out)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "bench.json", {**bench, **provenance()})


def _check_used(options: BenchOptions) -> None:
    """Refuse options that what is measured would ignore."""
    if options.model is None:
        unused = ["modes", *(one.name for one in declared(SizeConfig))]
        reason = f"is for {named('model')}"
    else:
        unused = ["dataset", "data_dir", "n_patches", "max_repeats", "epoch_steps"]
        reason = f"has no use with {named('model')}, whose steps are measured on random images"
    for name in unused:
        value = getattr(options, name)
        if value != getattr(BenchOptions, name):
            raise ArgumentError(name, f"{reason}, got {shown(value)}")


def _profile(workers: dict[Setup, Worker], measured: dict[Setup, Measurements]) -> None:
    """Measure peak memory, then the parts of a step, as the profiler needs memory itself."""
    for setup, worker in workers.items():
        measured[setup].peak_memory_bytes = worker.ask("memory")
    for setup, worker in workers.items():
        if setup.kind != "agent":
            shares, idle = worker.ask("shares", 2)
            measured[setup].step_shares, measured[setup].idle_share = shares, idle
