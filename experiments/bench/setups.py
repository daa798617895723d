"""What the benchmark measures: contenders, each at a number of patches, and their measurements."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from vit_patch_env.experiments.options.commands import BENCH_PATCHES

VIT_PYTORCH, PAPER, OURS, AGENT = (
    "vit-pytorch, fp32", "the paper's way, fp32", "ours", "ours with agent",
)  # fmt: skip
"""Names in tables and in bench.json."""

Kind = Literal["vit_pytorch", "paper", "ours", "agent"]
_NAMES: dict[Kind, str] = {
    "vit_pytorch": VIT_PYTORCH, "paper": PAPER, "ours": OURS, "agent": AGENT,
}  # fmt: skip


class Setup(NamedTuple):
    """A kind of contender at a number of patches per step.

    `ours` and `agent` share one process, whose epochs are measured without and with the agent.
    """

    kind: Kind
    n_patches: int

    @property
    def name(self) -> str:
        """Its name in tables and in bench.json."""
        return _NAMES[self.kind]

    @property
    def is_baseline(self) -> bool:
        """Whether it is another implementation than this package's."""
        return self.kind in ("vit_pytorch", "paper")


_KINDS: tuple[Kind, ...] = ("ours", "agent")
SETUPS = (
    Setup("vit_pytorch", 64),
    Setup("paper", 40),
    *(Setup(kind, n_patches) for n_patches in BENCH_PATCHES for kind in _KINDS),
)


@dataclass
class Measurements:
    """Measurements of a contender; lists have one value per repeat.

    A step is the forward and backward pass and the optimizer's update on a batch that is ready.
    It is the same with and without the agent, and is measured without.

    Attributes:
        name: of the contender.
        n_patches: per training step.
        precision: `fp32` or `bf16`.
        flops: of a training step.
        step_seconds: per step.
        ceiling: matmul throughput in FLOP/s, measured just before the steps.
        epoch_step_seconds: per step of an epoch, with data loading, selection and agent.
        agent_seconds: per step of an epoch, by part of the agent's work.
        step_shares: shares of a step's work by part.
        idle_share: share of the time that a CUDA device is idle.
        peak_memory_bytes: of the process.
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
