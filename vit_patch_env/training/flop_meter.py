"""The FLOPs that a run has used."""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from vit_patch_env.training.flops import FlopCount, uncountable
from vit_patch_env.training.trainer import rate_option


class Work(NamedTuple):
    """The properties of a computation that determine its FLOPs.

    Attributes:
        name: a training step, an observation of a batch, or the validation loss of a batch.
        n_keep: patches trained on; None for all.
        rate: share of tokens from the model's `train_rate`; None for other models.
    """

    name: Literal["train", "observe", "validate"]
    n_keep: int | None = None
    rate: float | None = None


OBSERVATION = Work("observe")
VALIDATION = Work("validate")

_RECOUNT = 100
"""Training steps after which FLOPs that depend on the images are counted again."""


class FlopMeter:
    """Adds up the FLOPs of a run's training steps, observations and validations.

    Work is recorded as it is done, and its FLOPs are counted on request. If the number of tokens
    depends on the images, work is assumed to cost as much as on the current batch, and is counted
    again every 100 training steps.

    Args:
        model: what is trained.
        observe: maps the model and normalised images to an observation.
        known: FLOPs of work that depends on shapes alone, shared between runs of the same sizes.
        required: whether the run needs the FLOPs: then a model whose FLOPs cannot be counted is
            refused, otherwise they are NaN, with a warning.
    """

    def __init__(
        self,
        model: nn.Module,
        observe: Callable[[Any, Tensor], Tensor],
        *,
        known: dict[Work, int] | None = None,
        required: bool = False,
    ) -> None:
        self.model = model
        self.observe = observe
        self.required = required
        self._known: dict[Work, int] = {} if known is None else known
        # Counts that depend on the images are kept per run and purpose, so that a run does not
        # depend on earlier runs, nor its budget on calls for the reward.
        self._known_of_images: dict[tuple[Work, str], int] = {}
        # Integers where possible: a large float could be one FLOP short of the budget.
        self._uncounted: defaultdict[Work, float] = defaultdict(int)
        self._total: float = 0
        self._n_trained = 0
        self._counter: FlopCount | None = None

    def add(self, work: Work, times: float = 1) -> None:
        """Record work that was done."""
        if work.name == "train":
            self._n_trained += 1
            if self._n_trained % _RECOUNT == 0:
                self._known_of_images.clear()
        self._uncounted[work] += times

    def total(self, images: Tensor) -> float:
        """FLOPs of all work so far; NaN if they cannot be counted.

        Args:
            images: the current batch, normalised: (batch, channels, height, width).

        Raises:
            ValueError: if they cannot be counted and are required.
        """
        try:
            for work, times in self._uncounted.items():
                self._total += times * self.flops(work, images, "budget")
            self._uncounted.clear()
        except Exception as error:  # a user's model may raise anything
            if self.required:
                raise uncountable(error) from error
            if not math.isnan(self._total):
                warnings.warn(f"FLOPs of this model cannot be counted: {error}", stacklevel=2)
            self._total = math.nan
        return self._total

    def check(self, images: Tensor, rate: float | None) -> None:
        """Refuse a model whose FLOPs cannot be counted.

        Raises:
            ValueError: for such a model.
        """
        try:
            flops = self.flops(Work("train", None, rate), images, "reward")
            self.flops(OBSERVATION, images, "budget")
        except Exception as error:  # a user's model may raise anything
            raise uncountable(error) from error
        if not flops:
            raise uncountable("0 FLOPs per step")

    def flops(self, work: Work, images: Tensor, purpose: Literal["budget", "reward"]) -> int:
        """FLOPs of a piece of work on these images.

        Args:
            work: to be counted.
            images: normalised: (batch, channels, height, width).
            purpose: counts that depend on the images are stored separately for each.
        """
        if self._counter is None:
            self._counter = FlopCount(self.model)
        counter = self._counter
        if not counter.computed:
            if work in self._known:
                return self._known[work]
        elif (work, purpose) in self._known_of_images:
            return self._known_of_images[work, purpose]
        if work == OBSERVATION:
            flops = counter.forward(self.observe, images)
        elif work == VALIDATION:
            flops = counter.forward(_logits, images)
        else:
            flops = counter.train_step(images, work.n_keep, **rate_option(work.rate))
        if counter.computed:  # counting may have set it
            self._known_of_images[work, purpose] = flops
        else:
            self._known[work] = flops
        return flops

    def state_dict(self) -> dict[str, Any]:
        """Counts so far, as plain data."""
        return {
            "total": self._total,
            "n_trained": self._n_trained,
            "uncounted": [(*work, times) for work, times in self._uncounted.items()],
            "known_of_images": [
                (*work, purpose, flops) for (work, purpose), flops in self._known_of_images.items()
            ],
            "computed": self._counter is not None and self._counter.computed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another meter of the same model."""
        self._total, self._n_trained = state["total"], state["n_trained"]
        self._uncounted.clear()
        for *work, times in state["uncounted"]:
            self._uncounted[Work(*work)] = times
        self._known_of_images.clear()
        for *work, purpose, flops in state["known_of_images"]:
            self._known_of_images[Work(*work), purpose] = flops
        self._counter = None
        if state["computed"]:
            self._counter = FlopCount(self.model)
            self._counter.computed = True


def _logits(model: Any, images: Tensor) -> Tensor:
    logits: Tensor = model.eval()(images)
    return logits
