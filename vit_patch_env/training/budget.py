"""What an episode may use: a number of steps, FLOPs or seconds."""

from typing import NamedTuple

from vit_patch_env.names import BudgetName


class Budget(NamedTuple):
    """How much a run may use.

    Attributes:
        name: what is counted: `epochs`: training steps, whatever they cost; `flops`: FLOPs of
            training steps, observations and rewards, the same on every machine; `seconds`:
            training time since the first step, the agent's own included, evaluation excluded.
        total: steps, FLOPs or seconds.
    """

    name: BudgetName
    total: float

    def share(self, used: float) -> float:
        """Share of the budget that so many steps, FLOPs or seconds are, in [0, 1]."""
        return min(used / self.total, 1.0)
