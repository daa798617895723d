"""Trains a ViT step by step on chosen patches, shows its first-layer attention, evaluates it."""

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from torch import Tensor, nn
from torch.nn import functional as F

from vit_patch_env.checks import check_choice, shown
from vit_patch_env.data.batches import Batch, BatchStream
from vit_patch_env.data.datasets import Split
from vit_patch_env.models.kernels import cpu_attention
from vit_patch_env.observation import mean_attention_output
from vit_patch_env.system.memory import keep_freed_memory
from vit_patch_env.training.budget import Budget, uncountable
from vit_patch_env.training.flops import FlopCount

PrecisionName = Literal["auto", "fp32", "bf16"]
OptimizerName = Literal["adam", "adamw"]
ScheduleName = Literal["constant", "cosine"]


class Metrics(NamedTuple):
    """Figures of a classifier: mean cross-entropy, accuracy and macro averages, all in [0, 1]."""

    loss: float
    accuracy: float
    precision: float
    recall: float
    f1: float


def resolve_device(device: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one, else the CPU.

    Raises:
        ValueError: for an unknown device, or CUDA where there is none.
    """
    expected = f"device must be auto, cpu, cuda or cuda:<n>, got {shown(device)}"
    if not isinstance(device, str):
        raise ValueError(expected)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(expected) from error
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(expected)
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} needs a CUDA device, got {torch.cuda.device_count()} of them"
        )
    return resolved


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type of matrix products; `auto` is bfloat16 where the hardware has it.

    Raises:
        ValueError: for an unknown precision.
    """
    check_choice(get_args(PrecisionName), precision=precision)
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def learning_rate_factor(
    progress: float, step_share: float, warmup: float, schedule: ScheduleName
) -> float:
    """Share of the peak learning rate: linear warm-up, then the schedule.

    Args:
        progress: share of the budget that was used before this step, in [0, 1].
        step_share: share that a step takes, so that the first one does not train at 0.
        warmup: share of the budget that warm-up takes, in [0, 1].
        schedule: what follows it.
    """
    if progress < warmup:
        return min((progress + step_share) / warmup, 1.0)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, step_share)))


class StepResult(NamedTuple):
    """What came of a step.

    Attributes:
        loss: of the batch just trained on.
        skipped: whether a gradient was not finite, so that the weights were left as they were.
        observation: of the next batch, (n_patches,) float32.
    """

    loss: float
    skipped: bool
    observation: NDArray[np.float32]


class _StepKind(NamedTuple):
    """What decides over a step's FLOPs."""

    name: Literal["train", "observe", "validate"]
    n_keep: int | None = None
    rate: float | None = None


_RECOUNT = 100
"""Steps that a count of FLOPs serves for where it depends on the images."""

_OBSERVATION = _StepKind("observe")
_VALIDATION = _StepKind("validate")


class Trainer:
    """A model, its optimiser and its images: one training run, advanced step by step.

    The model is known by its contract: `n_patches`; `model(images, keep=None)` -> logits;
    `model.first_attention(images)` -> (batch, n_patches, dim). One that reduces its tokens as the
    run goes on has `model.train_rate(progress)`, progress in [0, 1), and takes the rate in
    training: `model(images, keep, rate=...)`.

    Args:
        model: trained in place, on `device`.
        stream: of the training batches, on `device`.
        observation: maps the model and normalised images to what the agent sees, (n_patches,).
        n_steps: length of the run on all patches.
        budget: of the run, which schedules follow; by default `n_steps` steps.
        learning_rate: peak rate.
        optimizer: `adam` (the paper's) or `adamw`.
        weight_decay: of the optimiser.
        schedule: `constant` (the paper's) or `cosine` down to 0.
        warmup: share of the budget for linear warm-up, in [0, 1].
        label_smoothing: of the training loss, in [0, 1).
        device: where model and images live.
        dtype: of matrix products; weights and optimiser stay in float32.
        flops_of: what steps were found to cost by their shapes, shared between runs of the same
            sizes.

    Attributes:
        batch: the next one to train on.
        train_seconds: time spent in steps so far, batches included, observations apart.
        observe_seconds: time spent on the agent's observations so far.
        aside_seconds: time spent so far on what no training needs: counting FLOPs, and what
            `set_aside` was told of.
        n_steps_done: training steps so far, those that were skipped included.
        progress: share of the budget used so far, in [0, 1].
    """

    def __init__(
        self,
        model: nn.Module,
        stream: BatchStream,
        *,
        observation: Callable[[Any, Tensor], Tensor] = mean_attention_output,
        n_steps: int,
        budget: Budget | None = None,
        learning_rate: float = 1e-3,
        optimizer: OptimizerName = "adam",
        weight_decay: float = 0.0,
        schedule: ScheduleName = "constant",
        warmup: float = 0.0,
        label_smoothing: float = 0.0,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        flops_of: dict[Any, int] | None = None,
    ) -> None:
        if device.type == "cpu":
            keep_freed_memory()
            for needed in {dtype, torch.float32}:  # compiled here, not in the first timed step
                cpu_attention.library(needed)
        self.model = model.to(device)
        self.stream = stream
        self.observation = observation
        self.device = device
        self.dtype = dtype
        self.label_smoothing = label_smoothing
        self.n_steps = n_steps
        self.budget = budget or Budget("epochs", n_steps)
        self.learning_rate = learning_rate
        self._learning_rate_factor = partial(
            learning_rate_factor, step_share=1 / n_steps, warmup=warmup, schedule=schedule
        )
        optimizer_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
        self.optimizer = optimizer_class(
            model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True
        )
        self._parameters = list(model.parameters())
        self._unscaled = torch.ones((), device=device)
        self.batch = self._next_batch()
        self.train_seconds = 0.0
        self.observe_seconds = 0.0
        self.aside_seconds = 0.0
        self.n_steps_done = 0
        self.progress = 0.0
        self._started: float | None = None
        self._apart_seconds = 0.0
        # Integers as far as they go: a float of many FLOPs could miss the budget's last one.
        self._uncounted: defaultdict[_StepKind, float] = defaultdict(int)
        self._flops: float = 0
        self._flops_of: dict[Any, int] = {} if flops_of is None else flops_of
        # Those that depend on the images are this run's own, and a reward's not the budget's, so
        # that a run is the same whatever ran or was asked before.
        self._flops_of_images: dict[tuple[_StepKind, str], int] = {}
        self._flop_count: FlopCount | None = None

    def step(self, keep: Tensor | None = None) -> StepResult:
        """Train on the current batch, go on to the next, observe it; one host synchronisation.

        Args:
            keep: indices (n_keep,) int64 of the patches to train on; None for all.
        """
        started = time.perf_counter()
        if self._started is None:
            self._started, self._apart_seconds = started, 0.0
        loss = self.train_step(self.batch, keep)
        skipped = self.optimizer.found_inf
        self.batch = self._next_batch()
        trained = _mark(self.device)
        observation = self.observe(self.batch.images)
        self._uncounted[_OBSERVATION] += 1
        observed = _mark(self.device)
        host = torch.cat((loss.view(1), skipped.view(1), observation)).cpu().numpy()
        observe_seconds = _seconds_between(trained, observed)
        self.observe_seconds += observe_seconds
        self.train_seconds += time.perf_counter() - started - observe_seconds
        self.update_progress()
        return StepResult(float(host[0]), bool(host[1]), host[2:])

    def train_step(self, batch: Batch, keep: Tensor | None = None) -> Tensor:
        """Loss of one optimiser step on the kept patches: 0-d float32, still on the device.

        Where a gradient is not finite, weights and optimiser are left as they were.
        """
        self.model.train()
        rate = self._rate()
        with self._autocast():
            logits = self.model(batch.images, keep, **_rate_option(rate))
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self._learning_rate_factor(self.progress)
        self.optimizer.found_inf = self._has_bad_gradients()  # the fused step does nothing if 1
        self.optimizer.step()
        self.n_steps_done += 1
        if self.n_steps_done % _RECOUNT == 0:
            self._flops_of_images.clear()
        self._uncounted[_StepKind("train", None if keep is None else len(keep), rate)] += 1
        return loss.detach()

    def update_progress(self) -> None:
        """Take note of how much of the budget is used; `step` does it."""
        self.progress = min(self.budget.used(self), 1.0)

    @torch.no_grad()
    def observe(self, images: Tensor) -> Tensor:
        """The agent's view (n_patches,) float32 of normalised images, still on the device."""
        self.model.eval()
        with self._autocast():
            return self.observation(self.model, images)

    @torch.no_grad()
    def evaluate(
        self,
        split: Split,
        select: Callable[[Tensor], Tensor | None] | None = None,
    ) -> Metrics:
        """Figures on a split, in its order.

        Args:
            split: uint8 images and labels on the device.
            select: maps a batch of normalised images to the patches to keep (None: all).

        Returns:
            Loss without label smoothing, accuracy, and macro precision, recall and F1.
        """
        started = time.perf_counter()
        self.model.eval()
        logits = []
        for part in torch.split(split.images, self.stream.batch_size):
            images = self.stream.normalize(part)
            keep = None if select is None else select(images)
            with self._autocast():
                logits.append(self.model(images, keep).float())
        scores = torch.cat(logits)
        labels, predicted = split.labels.cpu().numpy(), scores.argmax(dim=1).cpu().numpy()
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels, predicted, average="macro", zero_division=0
        )
        metrics = Metrics(
            loss=F.cross_entropy(scores, split.labels).item(),
            accuracy=float(accuracy_score(labels, predicted)),
            precision=float(precision),
            recall=float(recall),
            f1=float(f1),
        )
        self._apart_seconds += time.perf_counter() - started
        return metrics

    @torch.no_grad()
    def validation_loss(self, batches: Sequence[Batch]) -> float:
        """Mean cross-entropy on all patches of held-out batches; counted among the FLOPs."""
        self.model.eval()
        losses = []
        for images, labels in batches:
            with self._autocast():
                logits = self.model(images)
            losses.append(F.cross_entropy(logits.float(), labels, reduction="sum"))
            # In images of a whole batch, which is what counting looks at.
            self._uncounted[_VALIDATION] += len(labels) / self.stream.batch_size
        return float(torch.stack(losses).sum()) / sum(len(batch.labels) for batch in batches)

    @property
    def seconds(self) -> float:
        """Wall-clock time since the first step began, evaluation and counting of FLOPs apart."""
        if self._started is None:
            return 0.0
        return time.perf_counter() - self._started - self._apart_seconds

    def count_flops(self) -> float:
        """FLOPs of all steps, observations and validations; not a number if they cannot be told.

        Where the number of tokens depends on the images, steps not counted yet are taken to cost as
        much as one on the batch at hand, which is counted anew every 100 steps.

        Raises:
            ValueError: if they cannot be told and are the budget.
        """
        if not self._uncounted:
            return self._flops
        started = time.perf_counter()
        try:
            for kind, n_steps in self._uncounted.items():
                self._flops += n_steps * self._flops_of_kind(kind, "budget")
            self._uncounted.clear()
        except Exception as error:  # a user's model may not bear what counting does to it
            if self.budget.name == "flops":
                raise uncountable(error) from error
            if not math.isnan(self._flops):
                warnings.warn(f"FLOPs of this model cannot be counted: {error}", stacklevel=2)
            self._flops = math.nan
        self.set_aside(time.perf_counter() - started)
        return self._flops

    def set_aside(self, seconds: float) -> None:
        """Take note of time that belongs to no training, such as that of a checkpoint."""
        self.aside_seconds += seconds
        self._apart_seconds += seconds

    def state_dict(self) -> dict[str, Any]:
        """All that the run's further course depends on, as plain data and tensors.

        The tensors are the trainer's own, not copies.
        """
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "stream": self._drawn_from,
            "train_seconds": self.train_seconds,
            "observe_seconds": self.observe_seconds,
            "aside_seconds": self.aside_seconds,
            "seconds": None if self._started is None else self.seconds,
            "n_steps_done": self.n_steps_done,
            "progress": self.progress,
            "flops": self._flops,
            "uncounted": [(*kind, count) for kind, count in self._uncounted.items()],
            "flops_of_images": [
                (*kind, purpose, flops) for (kind, purpose), flops in self._flops_of_images.items()
            ],
            "flops_computed": self._flop_count is not None and self._flop_count.computed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a trainer of the same model, images and recipe was."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stream.load_state_dict(state["stream"])
        self.batch = self._next_batch()
        self.train_seconds = state["train_seconds"]
        self.observe_seconds = state["observe_seconds"]
        self.aside_seconds = state["aside_seconds"]
        self._started, self._apart_seconds = None, 0.0
        if state["seconds"] is not None:
            self._started = time.perf_counter() - state["seconds"]
        self.n_steps_done = state["n_steps_done"]
        self.progress = state["progress"]
        self._flops = state["flops"]
        self._uncounted.clear()
        for *kind, count in state["uncounted"]:
            self._uncounted[_StepKind(*kind)] = count
        self._flops_of_images.clear()
        for *kind, purpose, flops in state["flops_of_images"]:
            self._flops_of_images[_StepKind(*kind), purpose] = flops
        self._flop_count = None
        if state["flops_computed"]:
            self._flop_count = FlopCount(self.model)
            self._flop_count.computed = True

    def step_flops(self, keep: Tensor | None = None) -> float:
        """FLOPs of a training step on those patches (None: all), as it would be now."""
        kind = _StepKind("train", None if keep is None else len(keep), self._rate())
        return self._flops_of_kind(kind, "reward")

    def check_flops(self) -> None:
        """Refuse a model whose FLOPs cannot be counted, where a run needs them.

        Raises:
            ValueError: for such a model.
        """
        try:
            flops = self.step_flops()
            self._flops_of_kind(_OBSERVATION, "budget")
        except Exception as error:  # whatever a user's model raises
            raise uncountable(error) from error
        if not flops:
            raise uncountable("0 FLOPs per step")

    def _flops_of_kind(self, kind: _StepKind, purpose: Literal["budget", "reward"]) -> int:
        if self._flop_count is None:
            self._flop_count = FlopCount(self.model)
        count, images = self._flop_count, self.batch.images
        if not count.computed:
            if kind in self._flops_of:
                return self._flops_of[kind]
        elif (kind, purpose) in self._flops_of_images:
            return self._flops_of_images[kind, purpose]
        if kind == _OBSERVATION:
            flops = count.forward(self.observation, images)
        elif kind == _VALIDATION:
            flops = count.forward(_logits, images)
        else:
            flops = count.train_step(images, kind.n_keep, **_rate_option(kind.rate))
        if count.computed:  # which counting may have found out
            self._flops_of_images[kind, purpose] = flops
        else:
            self._flops_of[kind] = flops
        return flops

    def _next_batch(self) -> Batch:
        self._drawn_from = self.stream.state_dict()
        return self.stream.next()

    def _has_bad_gradients(self) -> Tensor:
        """1 if any gradient is not finite, else 0: 0-d float32, on the device.

        By what GradScaler checks with, scaling by 1: one pass and no word to the host.
        """
        bad = torch.zeros((), device=self.device)
        gradients = [weight.grad for weight in self._parameters if weight.grad is not None]
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, bad, self._unscaled)
        return bad

    def _rate(self) -> float | None:
        """The rate that the model asks for at this point of the run, if it does."""
        train_rate = getattr(self.model, "train_rate", None)
        return None if train_rate is None else float(train_rate(self.progress))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )


def _logits(model: Any, images: Tensor) -> Tensor:
    logits: Tensor = model.eval()(images)
    return logits


def _rate_option(rate: float | None) -> dict[str, float]:
    return {} if rate is None else {"rate": rate}


def _mark(device: torch.device) -> "float | torch.cuda.Event":
    """A point in the device's work: on CUDA an event, as the host runs ahead of the device."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _seconds_between(start: "float | torch.cuda.Event", end: "float | torch.cuda.Event") -> float:
    """Seconds between two marks, after a synchronisation."""
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return start.elapsed_time(end) / 1000  # type: ignore[no-any-return]
    assert isinstance(start, float)
    assert isinstance(end, float)
    return end - start
