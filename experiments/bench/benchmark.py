"""`vit-patch bench`: how fast a training step and an epoch are, beside the rivals and the floor.

Every contender lives in a process of its own, which waits while the others are measured, so that
all of them are measured in turn, in one run, and each has a peak memory of its own.
"""

import importlib.util
import os
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile

from vit_patch_env import SimpleViT, load_dataset
from vit_patch_env.checks import check_choice, check_integer
from vit_patch_env.data.datasets import check_dataset
from vit_patch_env.experiments.bench.report import (
    AGENT,
    OURS,
    PAPER,
    PEER,
    draw_bench,
    show_bench,
    unsettled,
)
from vit_patch_env.experiments.options.commands import BenchOptions
from vit_patch_env.experiments.process.forkserver import fork_context
from vit_patch_env.experiments.runs.folder import device_name, provenance, write_json
from vit_patch_env.names import PrecisionName
from vit_patch_env.system.memory import is_out_of_memory, peak_memory
from vit_patch_env.training.flops import FlopCount
from vit_patch_env.training.precision import has_bf16, resolve_device, resolve_precision


class Setup(NamedTuple):
    """What is measured: a kind of contender at a number of patches.

    `ours` and `agent` are one process, whose epochs are measured without the agent and with it.
    """

    kind: str
    n_patches: int

    @property
    def name(self) -> str:
        """As it stands in tables."""
        return {"peer": PEER, "paper": PAPER, "ours": OURS, "agent": AGENT}[self.kind]

    @property
    def rival(self) -> bool:
        """Whether it is somebody else's way."""
        return self.kind in ("peer", "paper")


SETUPS = (
    Setup("peer", 64),
    Setup("paper", 40),
    *(Setup(kind, n_patches) for n_patches in (64, 48, 40, 32, 16) for kind in ("ours", "agent")),
)


@dataclass
class Figures:
    """What was measured of a contender, in lists a value per repeat; seconds are per step.

    `ceiling` is the rate of matrix products, in FLOP/s, measured just before the steps. Steps are
    those of a contender's optimiser, and so are not measured a second time with the agent.
    """

    name: str
    n_patches: int
    precision: str
    flops: int
    step_seconds: list[float] = field(default_factory=list)
    ceiling: list[float] = field(default_factory=list)
    epoch_step_seconds: list[float] = field(default_factory=list)
    agent_seconds: dict[str, list[float]] = field(default_factory=dict)
    step_shares: dict[str, float] = field(default_factory=dict)
    idle_share: float | None = None
    peak_memory_bytes: int = 0


class Bench:
    """A benchmark whose options have been checked.

    Args:
        options: what to measure, and on what.
        console: where progress is shown.

    Raises:
        ValueError: for an unknown data set, device or precision, or options out of range.
    """

    def __init__(self, options: BenchOptions, console: Console) -> None:
        self.options = options
        self.console = console
        check_dataset(options.dataset, options.data_dir)
        self.device = resolve_device(options.device)
        check_choice(get_args(PrecisionName), precision=options.precision)
        self.precision = resolve_precision(options.precision, self.device).name
        check_integer(1, steps=options.steps, repeats=options.repeats,
            max_repeats=options.max_repeats,
        )  # fmt: skip
        if options.epoch_steps % 10 or options.epoch_steps < 10:
            raise ValueError(
                f"epoch_steps must be a multiple of 10, as the agent learns every tenth step, "
                f"got {options.epoch_steps}"
            )
        self.data: dict[str, Any] = {"name": options.dataset, "data_dir": options.data_dir}
        # Here, once, so that a folder's images are in the cache for all.
        n_images = len(load_dataset(**self.data).train.images)
        check_integer(1, n_images, batch_size=options.batch_size)

    def run(self) -> dict[str, Any]:
        """Measure everything in turn; the content of bench.json.

        Raises:
            MemoryError: for a batch that does not fit, with one that does.
        """
        options = self.options
        skipped = {setup: reason for setup in SETUPS if (reason := self._missing(setup))}
        workers: dict[Setup, _Worker] = {}
        started = time.perf_counter()
        try:
            with self.console.status("starting") as status:
                for setup in SETUPS:
                    process = setup._replace(kind="ours") if setup.kind == "agent" else setup
                    if setup not in skipped:
                        status.update(f"starting {setup.name}, {setup.n_patches} patches")
                        workers[setup] = workers.get(process) or self._start(process)
                figures = {setup: self._figures(setup) for setup in workers}
                bench = self._content(figures, skipped)
                n_repeats = 0
                while n_repeats < options.repeats or (
                    n_repeats < options.max_repeats and unsettled(bench)
                ):
                    n_repeats += 1
                    minutes = (time.perf_counter() - started) / 60
                    status.update(f"repeat {n_repeats}, after {minutes:.0f} min")
                    self._repeat(workers, figures)
                    bench = self._content(figures, skipped)
                    self._write(bench)  # now, so that what comes later cannot lose it
                    if n_repeats >= options.repeats and unsettled(bench):
                        self.console.print(
                            f"After {n_repeats} repeats these spread too far: "
                            f"{', '.join(unsettled(bench))}.",
                            highlight=False, soft_wrap=True,
                        )  # fmt: skip
                status.update("what steps are made of")
                for setup, worker in workers.items():
                    figures[setup].peak_memory_bytes = worker.ask("memory")
                for setup, worker in workers.items():
                    if setup.kind != "agent":
                        shares, idle = worker.ask("shares", 2)
                        figures[setup].step_shares, figures[setup].idle_share = shares, idle
        finally:
            for worker in set(workers.values()):
                worker.close()
        bench = self._content(figures, skipped)
        self._write(bench)
        draw_bench(bench, Path(options.out) / "bench.png")
        show_bench(bench, self.console)
        self.console.print(f"Written to {options.out}.", highlight=False)
        return bench

    def _write(self, bench: dict[str, Any]) -> None:
        out = Path(self.options.out)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "bench.json", {**bench, **provenance()})

    def _missing(self, setup: Setup) -> str | None:
        """Why a contender cannot be measured here, or None."""
        if setup.rival and importlib.util.find_spec("vit_pytorch") is None:
            return "vit-pytorch is not installed (pip install vit-pytorch)"
        if not setup.rival and self.precision == "bf16" and not has_bf16(self.device):
            return f"{device_name(self.device)} has no instructions for bf16"
        return None

    def _start(self, setup: Setup) -> "_Worker":
        batch_size = self.options.batch_size
        precision = "fp32" if setup.rival else self.precision
        start = partial(_Worker, setup, self.data, device=str(self.device), precision=precision)
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
                f"batches of {batch_size} images of {setup.n_patches} patches do not fit into the "
                f"memory of {device_name(self.device)} with {setup.name}: {advice}"
            ) from error

    def _figures(self, setup: Setup) -> Figures:
        precision = "fp32" if setup.rival else self.precision
        flops = step_flops(setup.n_patches, self.options.batch_size)
        return Figures(setup.name, setup.n_patches, precision, flops)

    def _repeat(self, workers: "dict[Setup, _Worker]", figures: dict[Setup, Figures]) -> None:
        """Measure every contender once: all their steps in turn, then all their epochs."""
        n_steps, n_epoch_steps = self.options.steps, self.options.epoch_steps
        for setup, worker in workers.items():
            if setup.kind == "agent":
                continue
            measured = figures[setup]
            dtype = torch.bfloat16 if measured.precision == "bf16" else torch.float32
            measured.ceiling.append(matrix_ceiling(self.device, dtype))
            measured.step_seconds.append(worker.ask("steps", n_steps) / n_steps)
        for setup, worker in workers.items():
            measured = figures[setup]
            seconds = worker.ask("epoch_alone" if setup.kind == "ours" else "epoch", n_epoch_steps)
            measured.epoch_step_seconds.append(seconds / n_epoch_steps)
            if setup.kind != "agent":
                continue
            for part, part_seconds in worker.ask("parts").items():
                values = measured.agent_seconds.setdefault(part, [])
                values.append(part_seconds / n_epoch_steps)

    def _content(self, figures: dict[Setup, Figures], skipped: dict[Setup, str]) -> dict[str, Any]:
        return {
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "batch_size": self.options.batch_size,
            "steps": self.options.steps,
            "epoch_steps": self.options.epoch_steps,
            "contenders": [asdict(measured) for measured in figures.values()],
            "skipped": [
                {"name": setup.name, "n_patches": setup.n_patches, "reason": reason}
                for setup, reason in skipped.items()
            ],
        }


class _Worker:
    """A process that holds one contender and measures it when asked.

    Raises:
        MemoryError: where the contender does not fit.
        RuntimeError: where it fails otherwise.
    """

    def __init__(
        self, setup: Setup, data: dict[str, Any], *, batch_size: int, device: str, precision: str
    ) -> None:
        context = fork_context()
        self.connection, other = context.Pipe()
        # Not a daemon: the rivals' loaders start processes of their own.
        self.process = context.Process(
            target=_serve, args=(other, setup, data, batch_size, device, precision)
        )
        self.process.start()
        other.close()
        self._answer()

    def ask(self, what: str, n_steps: int = 0) -> Any:
        """The answer to a request, after it has been carried out."""
        with suppress(ConnectionError):  # where it is gone, and the answer says how
            self.connection.send((what, n_steps))
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.join(timeout=10)
        self.process.terminate()

    def _answer(self) -> Any:
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join()
            if self.process.exitcode == -signal.SIGKILL:  # what Linux does where memory ends
                raise MemoryError("a benchmark process was killed") from error
            raise RuntimeError(
                f"a benchmark process died with status {self.process.exitcode}"
            ) from error
        if isinstance(answer, _Failure):
            self.close()
            if answer.out_of_memory:
                raise MemoryError(answer.text)
            raise RuntimeError(f"a benchmark process failed:\n{answer.text}")
        return answer


class _Failure(NamedTuple):
    out_of_memory: bool
    text: str


def _serve(
    connection: Connection,
    setup: Setup,
    data: dict[str, Any],
    batch_size: int,
    device_type: str,
    precision: str,
) -> None:
    """Make a contender, warm it up, then answer requests until the connection closes."""
    from vit_patch_env.experiments.bench import contenders

    try:
        images, device = load_dataset(**data), torch.device(device_type)
        kinds: dict[str, Callable[..., contenders.Contender]] = {
            "peer": contenders.Peer,
            "paper": contenders.PaperWay,
            "ours": contenders.OursWithAgent,
        }
        options = {} if setup.rival else {"precision": precision}
        contender = kinds[setup.kind](images, batch_size, device, setup.n_patches, **options)
        contender.steps(2)
        contender.epoch(1)
        connection.send(0.0)
        while True:
            what, n_steps = connection.recv()
            if what == "parts":
                connection.send(contender.parts())
            elif what == "memory":
                connection.send(peak_memory(device))
            elif what == "shares":
                connection.send(step_shares(contender.steps, n_steps, device))
            else:
                connection.send(_seconds(getattr(contender, what), n_steps, device))
    except EOFError:
        return
    except Exception as error:
        short = is_out_of_memory(error)
        text = f"{setup.name}, {setup.n_patches} patches, batches of {batch_size}: {error}"
        connection.send(_Failure(short, text if short else traceback.format_exc()))


def _seconds(function: Any, n_steps: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    function(n_steps)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def matrix_ceiling(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """FLOPs per second that the device reaches on a large matrix product."""
    size = size if device.type == "cpu" else 4 * size
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        seconds.append(_seconds(lambda _: torch.mm(left, right), 1, device))
    return float(2 * size**3 / statistics.median(seconds[1:]))


def step_flops(n_keep: int, batch_size: int) -> int:
    """FLOPs of the matrix products in a training step of the paper's ViT."""
    images = torch.empty(batch_size, 3, 32, 32, device="meta")
    return FlopCount(SimpleViT(n_classes=10)).train_step(images, n_keep)


_PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear"),
    "attention": ("Attention", "attention", "softmax"),
    "optimiser": ("Optimizer.", "adam"),
}


def step_shares(
    steps: Callable[[int], None], n_steps: int, device: torch.device
) -> tuple[dict[str, float], float | None]:
    """Shares of a step's work that go to its parts, and of its time that a CUDA device is idle.

    Args:
        steps: trains so many steps.
        n_steps: to train under torch's profiler.
        device: what it trains on.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with _silent_stderr(), profile(activities=activities) as profiler:
        seconds = _seconds(steps, n_steps, device)

    shares = dict.fromkeys((*_PARTS, "everything else"), 0.0)
    for event in profiler.key_averages():
        if event.device_type.name != "CPU":
            continue  # a kernel, counted with the operation that called it
        name = next(
            (part for part, keys in _PARTS.items() if any(key in event.key for key in keys)),
            "everything else",
        )
        shares[name] += event.self_device_time_total if cuda else event.self_cpu_time_total
    total = sum(shares.values())
    if not total:  # CUDA's counters are closed to us, as in some containers
        return {}, None
    idle = max(0.0, 1 - total / 1e6 / seconds) if cuda else None
    return {part: value / total for part, value in shares.items()}, idle


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """No output to standard error: torch's profiler writes notes for its own developers there."""
    stderr = os.dup(2)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
