"""`vit-patch bench`: how fast a training step and an epoch are, beside the rivals and the floor.

Every contender lives in a process of its own, which waits while the others are measured, so that
all of them are measured in turn, in one run, and each has a peak memory of its own.
"""

import multiprocessing
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench_report import draw_bench, show_bench
from experiments.options import BenchOptions
from experiments.run_folder import device_name, provenance, write_json
from vit_patch_env import SimpleViT, load_dataset
from vit_patch_env.data import check_dataset
from vit_patch_env.training import resolve_device, resolve_precision


class Setup(NamedTuple):
    """What is measured: a kind of contender at a number of patches."""

    kind: str
    n_patches: int

    @property
    def name(self) -> str:
        """As it stands in tables."""
        return {
            "peer": "vit-pytorch, fp32",
            "paper": "the paper's way, fp32",
            "ours": "ours",
            "agent": "ours with agent",
        }[self.kind]


SETUPS = (
    Setup("peer", 64),
    Setup("paper", 40),
    *(Setup(kind, n_patches) for n_patches in (64, 48, 40, 32, 16) for kind in ("ours", "agent")),
)


@dataclass
class Figures:
    """What was measured of a contender: seconds per step, in lists a value per repeat.

    The parts of the agent's work are those of the last repeat.
    """

    name: str
    n_patches: int
    step_seconds: list[float]
    epoch_step_seconds: list[float]
    agent_parts: dict[str, float]
    peak_memory_bytes: int
    flops: int


class Bench:
    """A benchmark whose options have been checked.

    Args:
        options: what to measure, and on what.
        console: where progress is shown.

    Raises:
        ValueError: for an unknown data set or device, or options out of range.
    """

    def __init__(self, options: BenchOptions, console: Console) -> None:
        self.options = options
        self.console = console
        check_dataset(options.dataset, options.data_dir)
        self.device = resolve_device(options.device)
        self.dtype = resolve_precision("auto", self.device)
        if options.epoch_steps % 10 or options.epoch_steps < 10:
            raise ValueError(
                f"epoch_steps must be a multiple of 10, as the agent learns every tenth step, "
                f"got {options.epoch_steps}"
            )
        if options.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {options.repeats}")
        try:
            import vit_pytorch  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "the benchmark needs its rival, got none: pip install vit-pytorch"
            ) from error

    def run(self) -> dict[str, Any]:
        """Measure everything in turn; the content of bench.json."""
        options = self.options
        flops = {n: step_flops(n, options.batch_size) for n in {s.n_patches for s in SETUPS}}
        data: dict[str, Any] = {"name": options.dataset, "data_dir": options.data_dir}
        load_dataset(**data)  # once, so that a folder's images are in the cache for all
        workers = []
        ceilings: dict[str, list[float]] = {"fp32": [], "bf16": []}
        try:
            for setup in track(SETUPS, "starting", console=self.console, transient=True):
                workers.append(_Worker(setup, data, options.batch_size, str(self.device)))
            figures = [
                Figures(s.name, s.n_patches, [], [], {}, 0, flops[s.n_patches]) for s in SETUPS
            ]
            repeats = range(options.repeats)
            for _ in track(repeats, "measuring", console=self.console, transient=True):
                for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
                    ceilings[name].append(matrix_ceiling(self.device, dtype))
                for worker, measured in zip(workers, figures, strict=True):
                    seconds = worker.ask("steps", options.steps)
                    measured.step_seconds.append(seconds / options.steps)
                for worker, measured in zip(workers, figures, strict=True):
                    seconds = worker.ask("epoch", options.epoch_steps)
                    measured.epoch_step_seconds.append(seconds / options.epoch_steps)
            for worker, measured in zip(workers, figures, strict=True):
                parts = worker.ask("parts", 0)
                measured.agent_parts = {
                    name: seconds / options.epoch_steps for name, seconds in parts.items()
                }
                measured.peak_memory_bytes = worker.ask("memory", 0)
        finally:
            for worker in workers:
                worker.close()
        bench = {
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "precision": "bf16" if self.dtype == torch.bfloat16 else "fp32",
            "batch_size": options.batch_size,
            "epoch_steps": options.epoch_steps,
            "ceiling_flops_per_second": {
                name: statistics.median(values) for name, values in ceilings.items()
            },
            "contenders": [asdict(measured) for measured in figures],
        }
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "bench.json", {**bench, **provenance()})
        draw_bench(bench, out / "bench.png")
        show_bench(bench, self.console)
        self.console.print(f"Written to {out}.", highlight=False)
        return bench


class _Worker:
    """A process that holds one contender and measures it when asked."""

    def __init__(self, setup: Setup, data: dict[str, Any], batch_size: int, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        # Not a daemon: the rivals' loaders start processes of their own.
        self.process = context.Process(target=_serve, args=(other, setup, data, batch_size, device))
        self.process.start()
        other.close()
        self._answer()

    def ask(self, what: str, n_steps: int) -> Any:
        """The answer to a request, after it has been carried out."""
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
        except EOFError as error:
            raise RuntimeError("a benchmark process died") from error
        if isinstance(answer, str):
            raise RuntimeError(f"a benchmark process failed:\n{answer}")
        return answer


def _serve(
    connection: Connection, setup: Setup, data: dict[str, Any], batch_size: int, device_type: str
) -> None:
    """Make a contender, warm it up, then answer requests until the connection closes."""
    from experiments import contenders

    try:
        images, device = load_dataset(**data), torch.device(device_type)
        kinds: dict[str, Callable[..., contenders.Contender]] = {
            "peer": contenders.Peer,
            "paper": contenders.PaperWay,
            "ours": contenders.Ours,
            "agent": contenders.OursWithAgent,
        }
        contender = kinds[setup.kind](images, batch_size, device, setup.n_patches)
        contender.steps(2)
        contender.epoch(10)
        connection.send(0.0)
        while True:
            what, n_steps = connection.recv()
            if what == "parts":
                connection.send(contender.parts())
            elif what == "memory":
                connection.send(peak_memory(device))
            else:
                connection.send(_seconds(getattr(contender, what), n_steps, device))
    except EOFError:
        return
    except Exception:
        connection.send(traceback.format_exc())


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
    """FLOPs of the matrix products in a training step, counted by torch."""
    model = SimpleViT(n_classes=10)
    images, labels = torch.rand(batch_size, 3, 32, 32), torch.zeros(batch_size, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(images, torch.arange(n_keep)), labels).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def peak_memory(device: torch.device) -> int:
    """Peak bytes of this process: resident on the CPU, allocated on CUDA."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
