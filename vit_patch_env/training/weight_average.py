"""The exponential moving average of a model's weights, which is evaluated in their place."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vit_patch_env.system.torch_state import on_cpu

Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """torch's `AveragedModel`, with a decay that begins small.

    The decay of update n, from 1, is min(decay, n / (n + 9)), as TensorFlow's, so that the random
    initial weights are soon forgotten. Before the first update it is the model.

    Args:
        model: on its device; not changed.
        decay: of long runs, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        with on_cpu():  # the counter, which is then read without waiting for the device
            self._average = AveragedModel(model, multi_avg_fn=self._add)
        self._average.requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        """The model with the average of the weights."""
        return self._average.module

    def update(self, model: nn.Module) -> None:
        """Add the current weights."""
        self._average.update_parameters(model)

    def state_dict(self) -> dict[str, Any]:
        """Weights and number of updates: tensors."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another average of the same model."""
        self._average.load_state_dict(state)

    def _add(self, averages: Tensors, weights: Tensors, _: Tensor | int) -> None:
        n = int(self._average.n_averaged) + 1
        torch._foreach_lerp_(averages, weights, 1 - min(self._decay, n / (n + 9)))
