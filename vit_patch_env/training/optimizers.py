"""The optimizers by name, each fused: one kernel for all weights, which a flag can skip."""

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from vit_patch_env.names import OptimizerName

MOMENTUM = 0.9
"""Of SGD, by default."""


N_STATES: dict[OptimizerName, int] = {"adam": 2, "adamw": 2, "sgd": 1, "sgd_nesterov": 1}
"""Numbers that each optimizer keeps of a weight: moments, or the momentum."""


class Group(TypedDict):
    """Parameters with a learning rate and a weight decay of their own."""

    params: list[Tensor]
    lr: float
    weight_decay: float


def make_optimizer(
    name: OptimizerName, groups: Sequence[Group], momentum: float | None = None
) -> torch.optim.Optimizer:
    """The optimizer of that name for groups of parameters.

    Args:
        name: `adam` (the paper's), `adamw`, `sgd` or `sgd_nesterov`.
        groups: of parameters.
        momentum: of SGD, in [0, 1); None for 0.9.
    """
    given: list[Any] = list(groups)
    if name == "adam":
        return torch.optim.Adam(given, fused=True)
    if name == "adamw":
        return torch.optim.AdamW(given, fused=True)
    momentum = MOMENTUM if momentum is None else momentum
    optimizer = torch.optim.SGD(
        given, momentum=momentum, nesterov=name == "sgd_nesterov", fused=True
    )
    if momentum:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                # torch leaves them uninitialised if the first step is skipped. From 0 the first
                # step is the same.
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight.detach())
    return optimizer
