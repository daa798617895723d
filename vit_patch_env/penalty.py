"""The reward of the step at which a run diverges: what any healthy run returns, and less."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.names import RewardName
from vit_patch_env.reward import MAX_PROGRESS, REWARDS, WINDOW, StepOutcome

DIVERGED_REWARD = -100.0
"""The reward of a step at which the run diverges is at most this: see `divergence_reward`."""

_HEALTHY = 2.0
"""The loss of a healthy run stays below its first loss times this."""


class StepKind(NamedTuple):
    """Steps on similar numbers of patches, and how many of them a run can have.

    Attributes:
        fewest: patches.
        most: patches.
        n_steps: steps of this kind that the whole budget pays for, at most.
        least_flops: FLOPs of a step, at least, over those of one on all patches.
        most_flops: at most.
    """

    fewest: int
    most: int
    n_steps: float
    least_flops: float = 1.0
    most_flops: float = 1.0


class RunSoFar(NamedTuple):
    """What is known of a run that diverges.

    Attributes:
        name: of the reward.
        returned: sum of its rewards before this step.
        kinds: of the steps that a run with this budget can have.
        initial_loss: training loss of its first step.
        initial_val_loss: validation loss before it; 0 if it was not measured.
        n_desired: as of `StepOutcome`.
        n_patches: as of `StepOutcome`.
        alpha: as of `StepOutcome`.
    """

    name: RewardName
    returned: float
    kinds: Sequence[StepKind]
    initial_loss: float
    initial_val_loss: float
    n_desired: int | None
    n_patches: int
    alpha: float


def divergence_reward(run: RunSoFar) -> float:
    """Reward of the step at which a run diverges.

    It makes the return lower than that of any healthy run with the same budget, however many
    patches that selects: one whose losses stay below twice the first. So it is also lower than what
    a healthy rest of this run would earn. It is at most `DIVERGED_REWARD`.
    """
    return min(DIVERGED_REWARD, lowest_return(run) - run.returned - 1)


def lowest_return(run: RunSoFar) -> float:
    """A lower bound, at most 0, on the return of a healthy run.

    Steps are as many as the budget pays for: cheap ones are many, so a run cannot have the worst
    reward of expensive steps as often as it can have cheap ones.
    """
    if run.name == "progress":
        return lowest_progress(run.kinds)
    n_steps = most_steps(run.kinds)
    worst = [min(_lowest_reward(run, kind, n_steps), 0.0) for kind in run.kinds]
    # All steps but the last cost less than the budget, so their shares of it add up to at most 1.
    mixed = min(kind.n_steps * reward for kind, reward in zip(run.kinds, worst, strict=True))
    return max(n_steps * min(worst), mixed + min(worst))


def most_steps(kinds: Sequence[StepKind]) -> int:
    """The most steps that a run can have."""
    return max(1, math.ceil(max(kind.n_steps for kind in kinds)))


def _lowest_reward(run: RunSoFar, kind: StepKind, n_steps: int) -> float:
    """The lowest reward of a healthy step; between two numbers of patches no reward has a dip."""
    return min(
        REWARDS[run.name](
            StepOutcome(
                loss=_HEALTHY * run.initial_loss,
                initial_loss=run.initial_loss,
                mean_loss=run.initial_loss,
                n_selected=n_selected,
                n_desired=run.n_desired,
                n_patches=run.n_patches,
                alpha=run.alpha,
                flops_share=kind.least_flops,
                # An equal part of what a whole run can lose: the rewards' sum is the decrease.
                val_loss_decrease=(1 - _HEALTHY) * run.initial_val_loss / n_steps,
            )
        )
        for n_selected in (kind.fewest, kind.most)
    )


def lowest_progress(kinds: Sequence[StepKind]) -> float:
    """A lower bound on the sum of the reward `progress` over a healthy run.

    A loss above the running mean m costs reward, but also raises m, which stays below twice the
    first loss. With g = loss / m - 1 and the mean's weight w, log(m) grows by log(1 + g * w) in a
    step. So for any price a >= 0 of that growth, with c(g) the reward lost in a step,

        sum of c(g) <= a * log(2) + sum over steps of max over g of (c(g) - a * log(1 + g * w)).

    The lowest of these bounds over many prices is used. A step loses min(g / flops, 10) or gains
    min(-g / flops, 10), so the maximum is at g = 0, at g = 10 * flops, or at a loss of 0.
    """
    n_steps = most_steps(kinds)
    price = np.concatenate(([0.0], np.geomspace(0.1, 1e6, 400)))[:, None]  # (prices, 1)
    n_early = min(n_steps, WINDOW)
    weight = 1 / np.arange(2, max(n_early, 2) + 1)  # the first step's loss is its own mean
    cost = np.stack([_most_lost(kind, price, weight) for kind in kinds])  # (kinds, prices, early)
    early = cost.max(axis=0).sum(axis=1) if n_early > 1 else np.zeros(len(price))
    steady = np.stack([_most_lost(kind, price, 1 / WINDOW)[:, 0] for kind in kinds])
    n_late = np.array([[kind.n_steps] for kind in kinds])
    # As in `lowest_return`: either so many steps, or as many of each kind as the budget pays for.
    late = np.minimum(
        (n_steps - n_early) * steady.max(axis=0),
        (n_late * steady).max(axis=0) + steady.max(axis=0),
    )
    return -float((price[:, 0] * math.log(_HEALTHY) + early + late).min())


def _most_lost(
    kind: StepKind, price: NDArray[np.float64], weight: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """The reward that a step can lose, less the growth of log(m) at that price; at least 0."""
    lost = MAX_PROGRESS - price * np.log1p(MAX_PROGRESS * kind.least_flops * weight)
    gained = min(MAX_PROGRESS, 1 / kind.most_flops) + price * np.log1p(-np.asarray(weight))
    most: NDArray[np.float64] = np.maximum(0.0, np.maximum(lost, -gained))
    return most
