"""Observations of a batch and of the run: pure functions, chosen by name."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.names import ObservationName

RUN_FEATURES = 3
"""Number of run features at the end of the observations `...+run`."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def mean_attention_output(model: Any, images: Tensor) -> Tensor:
    """First attention layer's output averaged over dim and batch: (n_patches,).

    The paper's state (section 2.2). A model may compute it itself, in `mean_first_attention`.
    """
    if hasattr(model, "mean_first_attention"):
        return model.mean_first_attention(images)  # type: ignore[no-any-return]
    output: Tensor = model.first_attention(images)  # (batch, n_patches, dim)
    return output.float().mean(dim=(0, 2))


def standardized_attention(model: Any, images: Tensor) -> Tensor:
    """`attention_output`, standardised over the patches: mean 0 and standard deviation 1.

    Each batch by itself, so that nothing of one run or of later batches enters another. In
    [-sqrt(n_patches - 1), sqrt(n_patches - 1)]; zeros if all patches have the same value.
    """
    return standardized(mean_attention_output(model, images))


def standardized(values: Tensor) -> Tensor:
    """Values (n,) with mean 0 and standard deviation 1, float32; zeros if all are the same."""
    exact = values.double()
    centred = exact - exact.mean()
    deviation = centred.square().mean().sqrt()
    # Rounding errors give equal values a small spread, which must not be scaled up.
    same = deviation <= 1e-7 * exact.abs().max()
    return (
        torch.where(same, 0.0, centred / deviation)
        .clamp(*_standardized_bounds(len(values)))
        .float()
    )


def mean_attention_received(model: Any, images: Tensor) -> Tensor:
    """Attention that each patch receives, averaged over batch, heads and queries: (n_patches,).

    In [0, 1]; the patches' shares sum to 1.
    """
    attention: Tensor = model.first_attention_weights(images)  # (batch, heads, queries, keys)
    return attention.float().mean(dim=(0, 1, 2)).clamp(0, 1)


def zeros(model: Any, images: Tensor) -> Tensor:
    """Zeros (n_patches,), at no cost: for rules that do not use an observation."""
    return torch.zeros(model.n_patches, dtype=torch.float32, device=images.device)


def run_features(progress: float, loss_ratio: float, selected_share: float) -> NDArray[np.float32]:
    """The run features, (3,): for agents that act differently at the start and end of a run.

    Args:
        progress: share of the budget used, in [0, 1].
        loss_ratio: running mean of the training loss over the first loss.
        selected_share: running mean of the share of patches selected, in [0, 1].
    """
    features = np.array((progress, loss_ratio, selected_share), dtype=np.float64)
    return features.clip(0, (1, _FLOAT32_MAX, 1)).astype(np.float32)


FEATURES_AFTER_RUN = run_features(1, 0, 1)
"""Run features after the end of a run."""


class Observation(NamedTuple):
    """An observation: a function of model and images, its bounds, and whether it has run features.

    Attributes:
        function: maps model and images to a value per patch, (n_patches,).
        bounds: of these values, by the number of patches; infinite if they have none.
        with_run: whether `run_features` are appended.
    """

    function: Callable[[Any, Tensor], Tensor]
    bounds: Callable[[int], tuple[float, float]]
    with_run: bool = False

    def space(self, n_patches: int) -> spaces.Space[NDArray[np.float32]]:
        """Box of shape (n_patches,), or (n_patches + 3,) with run features."""
        low, high = (np.full(n_patches, bound) for bound in self.bounds(n_patches))
        if self.with_run:
            low = np.concatenate((low, np.zeros(RUN_FEATURES)))
            high = np.concatenate((high, (1, np.inf, 1)))
        box = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        return cast("spaces.Space[NDArray[np.float32]]", box)


def _unbounded(_n_patches: int) -> tuple[float, float]:
    return -math.inf, math.inf


def _shares(_n_patches: int) -> tuple[float, float]:
    return 0.0, 1.0


def _standardized_bounds(n_patches: int) -> tuple[float, float]:
    """A value is farthest from the mean if all others are the same; a single one, always 0."""
    farthest = math.sqrt(max(n_patches - 1, 1))
    return -farthest, farthest


_WITHOUT_RUN = {
    "attention_output": Observation(mean_attention_output, _unbounded),
    "attention_standardized": Observation(standardized_attention, _standardized_bounds),
    "attention_received": Observation(mean_attention_received, _shares),
    "none": Observation(zeros, _shares),
}

OBSERVATIONS: dict[ObservationName, Observation] = {
    name: _WITHOUT_RUN[name.removesuffix("+run")]._replace(with_run=name.endswith("+run"))
    for name in get_args(ObservationName)
}
