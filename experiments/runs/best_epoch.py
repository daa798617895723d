"""The best epoch of a run, whose weights are kept, and after which a run may end early."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vit_patch_env.checks import InputError, shown
from vit_patch_env.experiments.options.commands import BestName
from vit_patch_env.experiments.run_folder.tables import EpochMetrics


class BestEpoch:
    """The best epoch so far by a metric on the validation images; the first one of equal ones.

    Args:
        by: the metric.
        keep_weights: whether the ViT's weights after that epoch are kept, on the CPU.

    Attributes:
        epoch: the best one, from 1; 0 before the first, or if none had a finite metric.
        value: its metric; NaN for epoch 0.
        n_since: epochs since then.
        weights: of the ViT after that epoch; empty unless they are kept.
    """

    def __init__(self, by: BestName, *, keep_weights: bool) -> None:
        self.by = by
        self.keep_weights = keep_weights
        self.epoch = self.n_since = 0
        self.value = math.nan
        self.weights: dict[str, Tensor] = {}

    def add(self, metrics: EpochMetrics, model: nn.Module) -> None:
        """Add the next epoch.

        Args:
            metrics: of the epoch.
            model: the ViT after it.
        """
        value = metrics.val_accuracy if self.by == "accuracy" else metrics.val_loss
        better = value > self.value if self.by == "accuracy" else value < self.value
        if not (better or (math.isnan(self.value) and math.isfinite(value))):
            self.n_since += 1
            return
        self.epoch, self.value, self.n_since = metrics.epoch, value, 0
        if self.keep_weights:
            self.weights = {
                name: one.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                for name, one in model.state_dict().items()
            }

    def result(self) -> dict[str, Any]:
        """The best epoch for result.json."""
        return {"epoch": self.epoch or None, "metric": self.by, "value": self.value}

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, as plain data and tensors."""
        return {
            "epoch": self.epoch,
            "n_since": self.n_since,
            "value": self.value,
            "weights": self.weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another one of the same run.

        Raises:
            InputError: for values of other types.
        """
        for name, kind in (("epoch", int), ("n_since", int), ("value", float), ("weights", dict)):
            if not isinstance(state[name], kind):
                raise InputError(f"a best epoch with {name} {shown(state[name])}")
            setattr(self, name, state[name])
