"""The budget of an episode: a number of steps, FLOPs or seconds."""

from typing import NamedTuple

from vit_patch_env.names import BudgetName


class Budget(NamedTuple):
    """The length of a run.

    Attributes:
        name: the unit. `epochs`: training steps, whatever they cost. `flops`: FLOPs of training
            steps, observations and rewards, the same on every machine. `seconds`: training time
            since the first step, including the agent's and excluding evaluation.
        total: steps, FLOPs or seconds.
        overhead: FLOPs that each step is charged besides its own, for a budget of FLOPs.
    """

    name: BudgetName
    total: float
    overhead: int = 0

    def share(self, used: float) -> float:
        """Share of the budget that `used` steps, FLOPs or seconds are, in [0, 1]."""
        return min(used / self.total, 1.0)
