"""One training run: batches, training steps, observations, and the share of the budget used."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_patch_env.data.batches import Batch, BatchStream
from vit_patch_env.data.images import ALL
from vit_patch_env.data.splits import Split
from vit_patch_env.system.torch_state import copied_for_training, own_torch_state
from vit_patch_env.training.budget import Budget
from vit_patch_env.training.evaluation import (
    Evaluated,
    Metrics,
    evaluated,
    scores,
    sum_of_losses,
)
from vit_patch_env.training.flop_meter import OBSERVATION, VALIDATION, FlopMeter, Work
from vit_patch_env.training.ranks import Ranks
from vit_patch_env.training.stopwatch import Stopwatch, mark, seconds_between
from vit_patch_env.training.trainer import Trainer


class StepResult(NamedTuple):
    """The outcome of a step.

    Attributes:
        loss: of the batch just trained on.
        skipped: whether a gradient was not finite, so that the weights were left as they were.
        observation: of the next batch, (n_patches,) float32.
    """

    loss: float
    skipped: bool
    observation: NDArray[np.float32]


class BatchObservation(Protocol):
    """What is observed of a batch: see `vit_patch_env.observation.Observation`."""

    @property
    def n_images(self) -> int | None:
        """Images of a batch that are observed, the first ones; None for all."""

    def function(self, model: Any, images: Tensor, /) -> Tensor:
        """The observation of a batch: (n_patches,)."""

    def mean(self, model: Any, images: Tensor, /) -> Tensor:
        """The mean over images of what is observed of each: (n_patches,)."""

    def finished(self, mean: Tensor, /) -> Tensor:
        """The observation of the mean over the images of a batch."""


class TrainingRun:
    """Trains a model batch by batch, with observations, timings and FLOPs, up to a budget.

    Args:
        trainer: of the model.
        stream: of the training batches, on the trainer's device.
        observation: of the next batch.
        budget: of the run.
        known_flops: FLOPs of work that depends on shapes alone, shared between runs of the same
            sizes.
        ranks: the processes that have a part of each batch, and all make the same calls; None for
            a single one.

    Attributes:
        batch: the next one to train on.
        stopwatch: time spent; its spans are `train` (including batches), `observe`, `reset` and
            the excluded ones.
        flop_meter: FLOPs used.
        steps_done: training steps so far, skipped ones included.
        step_rate: share of tokens in the last step of a model whose `train_rate` changes over the
            run; None for other models.
        progress: share of the budget used so far, in [0, 1].
    """

    def __init__(
        self,
        trainer: Trainer,
        stream: BatchStream,
        *,
        observation: BatchObservation,
        budget: Budget,
        known_flops: dict[Work, int] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.trainer = trainer
        self.stream = stream
        self.budget = budget
        self.stopwatch = Stopwatch()
        self.flop_meter = FlopMeter(
            trainer.model,
            observation.function,
            known=known_flops,
            required=budget.name == "flops",
        )
        self.steps_done = 0
        self.step_rate: float | None = None
        self.progress = 0.0
        self._observation = observation
        self._ranks = ranks
        self.batch = self._next_batch()

    def step(self, keep: Tensor | None = None) -> StepResult:
        """Train on the current batch, fetch and observe the next; one host synchronisation.

        Args:
            keep: indices int64 of the patches to train on, (n_keep,), or (batch, n_keep) for
                others in each image; None for all.
        """
        started = time.perf_counter()
        self.stopwatch.start()
        device, n_keep = self.trainer.precision.device, None if keep is None else keep.shape[-1]
        rate = self.step_rate = self.trainer.rate(self.progress)
        with nullcontext() if self._ranks is None else self._ranks.watched():
            loss = self.trainer.step(self.batch, keep, self.progress)
        self.steps_done += 1
        self.flop_meter.add(Work("train", n_keep, rate))
        self.batch = self._next_batch()
        trained = mark(device)
        found = self._with_observation(loss.view(1), self.trainer.skipped.view(1))
        self.flop_meter.add(OBSERVATION)
        observed = mark(device)
        host = found.cpu().numpy()
        observe_seconds = seconds_between(trained, observed)
        self.stopwatch.seconds["observe"] += observe_seconds
        self.stopwatch.seconds["train"] += time.perf_counter() - started - observe_seconds
        self.update_progress()
        return StepResult(float(host[0]), bool(host[1]), host[2:])

    def update_progress(self) -> None:
        """Update `progress`; `step` does it. At the end the last batches are trained on."""
        if self._ranks is None or self._ranks.leads:
            self.progress = self.budget.share(self._used())
        if self.progress >= 1:
            self.trainer.finish()

    def _used(self) -> float:
        """Steps, FLOPs or seconds used so far, in the unit of the budget."""
        if self.budget.name == "flops":
            return self.flops() + self.budget.overhead * self.steps_done
        return self.steps_done if self.budget.name == "epochs" else self.stopwatch.training

    def observe(self, images: Tensor, model: nn.Module | None = None) -> Tensor:
        """Observation (n_patches,) float32 of normalised images, still on the device.

        Args:
            images: normalised, (batch, channels, height, width).
            model: that observes; by default the one that trains.
        """
        model = self.trainer.model if model is None else model
        with self._observing(model):
            return self._observation.function(model, images)

    def observe_next(self) -> Tensor:
        """The observation of the next batch, of all processes: (n_patches,), on the device."""
        return self._with_observation()

    def _with_observation(self, *numbers: Tensor) -> Tensor:
        """Numbers (1,) as means over the processes, then the observation of the next batch."""
        images, ranks, observation = self.batch.images, self._ranks, self._observation
        if ranks is None:
            return torch.cat((*numbers, self.observe(images)))
        own = range(self.stream.batch_size)[ranks.part(self.stream.batch_size)]
        n_observed = observation.n_images or self.stream.batch_size
        n_own = min(n_observed - own.start, len(own))  # the first ones of the whole batch
        model: Any = self.trainer.model
        if n_own > 0:
            with self._observing(model):
                mean = observation.mean(model, images[:n_own]) * (n_own * ranks.size / n_observed)
        else:
            mean = torch.zeros(model.n_patches, device=self.trainer.precision.device)
        found = ranks.mean(torch.cat((*numbers, mean)))
        return torch.cat((found[: len(numbers)], observation.finished(found[len(numbers) :])))

    @contextmanager
    def _observing(self, model: nn.Module) -> Iterator[None]:
        model.eval()
        with own_torch_state(gradients=False, model=model), self.trainer.precision.autocast():
            yield

    def evaluate(
        self,
        split: Split,
        select: Callable[[Tensor], Tensor | None] | None = None,
        span: str = "evaluate",
    ) -> Metrics:
        """The metrics of `predict_split`."""
        return self.predict_split(split, select, span).metrics

    def predict_split(
        self,
        split: Split,
        select: Callable[[Tensor], Tensor | None] | None = None,
        span: str = "evaluate",
    ) -> Evaluated:
        """Metrics and predictions on a split; their time is excluded from the training time.

        Args:
            split: uint8 images and labels on the device.
            select: maps a batch of normalised images to the patches to keep (None: all).
            span: of the stopwatch, an excluded one.
        """
        with self.stopwatch.span(span):
            return evaluated(self._scores(split, select), split)

    def predict_with_all(
        self, split: Split, keep: Sequence[Tensor | None] | None = None, span: str = "evaluate"
    ) -> Evaluated | None:
        """`predict_split` by all processes, each on a part of the batches; the result in rank 0.

        Args:
            split: as for `predict_split`.
            keep: patches to keep of each batch (None: all).
            span: as for `predict_split`.
        """
        ranks = self._ranks
        assert ranks is not None
        with self.stopwatch.span(span):
            n_batches = -(-len(split.labels) // self.stream.batch_size)
            own = slice(*(n_batches * one // ranks.size for one in (ranks.rank, ranks.rank + 1)))
            found = None
            if own.start < own.stop:
                kept = iter([None] * n_batches if keep is None else keep[own])
                found = self._scores(split, lambda images: next(kept), own).cpu()
            parts = ranks.gathered(found)
            if parts is None:
                return None
            whole = torch.cat([part for part in parts if part is not None])
            return evaluated(whole.to(split.labels.device), split)

    def _scores(
        self,
        split: Split,
        select: Callable[[Tensor], Tensor | None] | None,
        some: slice = ALL,
    ) -> Tensor:
        return scores(
            self.trainer.evaluated,
            split,
            normalize=self.stream.normalize,
            batch_size=self.stream.batch_size,
            precision=self.trainer.precision,
            select=select,
            some=some,
        )

    def validation_loss(self, batches: Sequence[Batch]) -> float:
        """Mean cross-entropy on all patches of validation batches; its FLOPs are counted."""
        for batch in batches:
            # As a share of a full batch, whose FLOPs are counted.
            self.flop_meter.add(VALIDATION, len(batch.labels) / self.stream.batch_size)
        n_images, ranks = sum(len(batch.labels) for batch in batches), self._ranks
        own = batches if ranks is None else batches[ranks.rank :: ranks.size]
        total = sum_of_losses(self.trainer.evaluated, own, self.trainer.precision)
        return (total if ranks is None else ranks.sum(total)) / n_images

    def flops(self) -> float:
        """FLOPs of all steps, observations and validations; NaN if they cannot be counted.

        Raises:
            ValueError: if they cannot be counted and are the budget.
        """
        with self.stopwatch.span("count"):
            return self.flop_meter.total(self._whole_batch)

    def step_flops(self, keep: Tensor | None = None) -> float:
        """FLOPs of a training step on these patches (None: all) at the current progress."""
        n_keep = None if keep is None else keep.shape[-1]
        work = Work("train", n_keep, self.trainer.rate(self.progress))
        return self.flop_meter.flops(work, self._whole_batch, "reward")

    def check_flops(self) -> None:
        """Refuse a model whose FLOPs cannot be counted.

        Raises:
            ValueError: for such a model.
        """
        self.flop_meter.check(self._whole_batch, self.trainer.rate(self.progress))

    @property
    def _whole_batch(self) -> Tensor:
        """Images of the shape of the whole batch, whose FLOPs are counted."""
        images = self.batch.images
        if self._ranks is None:
            return images
        if getattr(self.trainer.model, "data_dependent", False):
            return images.repeat_interleave(self._ranks.size, dim=0)
        return images[:1].expand(self.stream.batch_size, *images.shape[1:])

    def state_dict(self) -> dict[str, Any]:
        """The complete state now, as plain data and tensors."""
        return {
            "trainer": self.trainer.state_dict(),
            "stream": self._batch_position,
            "stopwatch": self.stopwatch.state_dict(),
            "flop_meter": self.flop_meter.state_dict(),
            "steps_done": self.steps_done,
            "progress": self.progress,
            "total": self.budget.total,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another run of the same model, images and arguments."""
        self.trainer.load_state_dict(state["trainer"])
        self.stream.load_state_dict(state["stream"])
        self.batch = self._next_batch()
        self.stopwatch.load_state_dict(state["stopwatch"])
        self.flop_meter.load_state_dict(state["flop_meter"])
        self.steps_done = state["steps_done"]
        self.progress = state["progress"]
        if state.get("total", self.budget.total) != self.budget.total:  # it is extended
            self.update_progress()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy trains, even one that was made or unpickled under inference mode."""
        if torch.is_inference_mode_enabled():
            # The stream's tensors are only read, and its images may be large and others' as well.
            state = copied_for_training(state, state["stream"])
        vars(self).update(state)

    def _next_batch(self) -> Batch:
        self._batch_position = self.stream.state_dict()
        return self.stream.next()
