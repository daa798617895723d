"""The forward pass of a training step, compiled by `torch.compile`."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

_RECOMPILE_LIMIT = 64
"""Graphs of models of different classes and sizes in this process, about five for each."""

_backend: Any = "inductor"
"""torch's compiler."""


def forward(model: Any, images: Tensor, keep: Tensor | None, **options: Any) -> Tensor:
    """Logits (batch, n_classes) of a model."""
    logits: Tensor = model(images, keep, **options)
    return logits


def compiled_forward(model: Any, images: Tensor, keep: Tensor | None, **options: Any) -> Tensor:
    """`forward`, compiled at its first call for models of that kind and any number of patches.

    The model is an argument: it is not changed, and a new one of the same kind is not compiled
    again.
    """
    logits: Tensor = _compiled()(model, images, keep, **options)
    return logits


@cache
def _compiled() -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(  # type: ignore[call-overload]
        forward, dynamic=True, backend=_backend, recompile_limit=_RECOMPILE_LIMIT
    )
    return compiled
