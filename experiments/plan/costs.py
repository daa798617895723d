"""What steps and runs cost: arithmetic on FLOPs, bytes and seconds."""

from collections.abc import Callable
from typing import NamedTuple

BACKWARD_SHARE = 2 / 3
"""Of a step's computation: each matrix product has two in the backward pass."""

_N_POINTS = 2_000
"""Points of a run at which its number of patches is looked up, if it has more steps."""


class StepCost(NamedTuple):
    """What a training step costs, of all devices together or, for seconds, of each.

    Attributes:
        flops: of matrix products.
        seconds: from its start to its end.
    """

    flops: float
    seconds: float


class RunCost(NamedTuple):
    """What a run costs.

    Attributes:
        steps: training steps.
        flops: of all devices together.
        seconds: from its start to its end.
        patches: per step, on average.
    """

    steps: int
    flops: float
    seconds: float
    patches: float


CostOf = Callable[[int, float], StepCost]
"""Maps a number of patches and the share of the budget used to the cost of a step."""


def all_reduce_bytes(gradient_bytes: int, n_devices: int) -> int:
    """Bytes that each device sends in a step, for the mean of the gradients.

    In a ring each device sends 2 (N - 1) parts of N: N - 1 to add them up, and N - 1 to spread the
    sums (Patarasuk and Yuan 2009, https://doi.org/10.1016/j.jpdc.2008.09.002).

    Args:
        gradient_bytes: of the model.
        n_devices: that train together.
    """
    return 2 * (n_devices - 1) * gradient_bytes // n_devices


def step_seconds(compute: float, all_reduce: float) -> float:
    """Seconds of a step whose all-reduce runs beside its backward pass, which it may outlast.

    Args:
        compute: seconds of forward and backward pass.
        all_reduce: seconds of the gradients' all-reduce.
    """
    backward = BACKWARD_SHARE * compute
    return compute - backward + max(backward, all_reduce)


def run_cost(
    n_keep: Callable[[float], int],
    cost: CostOf,
    total: float,
    unit: Callable[[StepCost], float],
    full_steps: int,
) -> RunCost:
    """What a run costs that ends when its budget is used.

    It is followed step by step; in a run of more than 2,000 steps on all patches, a few steps at a
    time.

    Args:
        n_keep: maps the share of the budget used, in [0, 1), to the number of patches.
        cost: of a step.
        total: the budget.
        unit: what a step uses of it: 1, its FLOPs or its seconds.
        full_steps: steps on all patches that the budget is worth.
    """
    stride = -(-full_steps // _N_POINTS)
    used = flops = seconds = 0.0
    steps = patches = 0
    # A budget of seconds or FLOPs may be missed by less than a step because of rounding.
    while used < total * (1 - 1e-12):
        progress = used / total
        kept = n_keep(progress)
        one = cost(kept, progress)
        rest = -(-(total * (1 - 1e-12) - used) // unit(one))
        times = int(min(stride, max(rest, 1)))
        steps += times
        patches += times * kept
        used += times * unit(one)
        flops += times * one.flops
        seconds += times * one.seconds
    return RunCost(steps, flops, seconds, patches / steps)
