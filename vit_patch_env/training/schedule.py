"""The learning rate over a run."""

import math

from vit_patch_env.names import ScheduleName


def learning_rate_factor(
    progress: float, step_share: float, warmup: float, schedule: ScheduleName
) -> float:
    """Share of the peak learning rate: linear warm-up, then the schedule.

    Args:
        progress: share of the budget used before this step, in [0, 1].
        step_share: share that one step uses, so that the first step's rate is not 0.
        warmup: share of the budget for the warm-up, in [0, 1].
        schedule: what follows the warm-up.
    """
    if progress < warmup:
        return min((progress + step_share) / warmup, 1.0)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, step_share)))
