"""FLOPs of training steps, counted by torch on shapes, without computing them."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class FlopCount:
    """Counts the FLOPs of matrix products that a model's steps take.

    A multiplication and an addition are two FLOPs; attention counts as its two products, whatever
    kernel computes it.

    Args:
        model: counted on a copy of its own. The images' shape is enough, unless the model has
            `data_dependent = True` or cannot be run without values: then they are computed with.

    Attributes:
        computed: whether the images' values may decide over the count.
    """

    def __init__(self, model: nn.Module) -> None:
        self.computed = bool(getattr(model, "data_dependent", False))
        self.model = model
        self._shapes = copy.deepcopy(model).to("meta")

    def train_step(self, images: Tensor, n_keep: int | None, **options: Any) -> int:
        """FLOPs forward and backward on `n_keep` patches (None: all) of images.

        Args:
            images: normalised, (batch, channels, height, width).
            n_keep: patches kept.
            options: for the model's forward pass.
        """

        def step(model: Any, images: Tensor) -> None:
            model.train()
            keep = None if n_keep is None else torch.arange(n_keep, device=images.device)
            model(images, keep, **options).sum().backward()

        return self._count(step, images)

    def forward(self, function: Callable[[Any, Tensor], Any], images: Tensor) -> int:
        """FLOPs of a function of model and images, without gradients."""
        with torch.no_grad():
            return self._count(function, images)

    def _count(self, function: Callable[[Any, Tensor], Any], images: Tensor) -> int:
        if not self.computed:
            try:
                return _counted(function, self._shapes, images.to("meta"))
            except RuntimeError:  # what torch raises where a value is asked for
                self.computed = True
        return _counted(function, copy.deepcopy(self.model), images)


def _counted(function: Callable[[Any, Tensor], Any], model: nn.Module, images: Tensor) -> int:
    # As plain products: torch counts recomputation in CUDA's fused kernels, and no CPU's at all.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function(model, images)
    return int(counter.get_total_flops())
