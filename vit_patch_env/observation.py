"""What an agent sees of a batch: pure functions of a model and images, chosen by name."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

ObservationName = Literal["attention_output", "attention_received", "none"]

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def mean_attention_output(model: Any, images: Tensor) -> Tensor:
    """First attention layer's output averaged over dim and batch: (n_patches,).

    The paper's state (section 2.2). A model may offer the mean itself, as `mean_first_attention`.
    """
    if hasattr(model, "mean_first_attention"):
        return model.mean_first_attention(images)  # type: ignore[no-any-return]
    output: Tensor = model.first_attention(images)  # (batch, n_patches, dim)
    return output.float().mean(dim=(0, 2))


def mean_attention_received(model: Any, images: Tensor) -> Tensor:
    """Attention that each patch receives, averaged over batch, heads and queries: (n_patches,).

    In [0, 1]; the patches' shares sum to 1.
    """
    attention: Tensor = model.first_attention_weights(images)  # (batch, heads, queries, keys)
    return attention.float().mean(dim=(0, 1, 2)).clamp(0, 1)


def nothing(model: Any, images: Tensor) -> Tensor:
    """Zeros (n_patches,), at no cost: for rules that do not look."""
    return torch.zeros(model.n_patches, device=images.device)


class Observation(NamedTuple):
    """An observation's function and the bounds of its values."""

    function: Callable[[Any, Tensor], Tensor]
    low: float
    high: float


OBSERVATIONS: dict[ObservationName, Observation] = {
    "attention_output": Observation(mean_attention_output, -_FLOAT32_MAX, _FLOAT32_MAX),
    "attention_received": Observation(mean_attention_received, 0.0, 1.0),
    "none": Observation(nothing, 0.0, 1.0),
}
