"""What an episode may use: a number of epochs, of FLOPs or of seconds, by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from vit_patch_env.training.trainer import Trainer

BudgetName = Literal["epochs", "flops", "seconds"]


def steps_used(trainer: "Trainer") -> float:
    """Training steps, whatever they cost: the usual budget."""
    return trainer.n_steps_done


def flops_used(trainer: "Trainer") -> float:
    """FLOPs of training steps, observations and rewards: exact, the same on every machine."""
    return trainer.count_flops()


def seconds_used(trainer: "Trainer") -> float:
    """Wall-clock time since the first step, the agent's own included, evaluation apart."""
    return trainer.seconds


BUDGETS: dict[BudgetName, Callable[["Trainer"], float]] = {
    "epochs": steps_used,
    "flops": flops_used,
    "seconds": seconds_used,
}


def uncountable(reason: object) -> ValueError:
    """The error to raise where FLOPs are needed and cannot be counted, in one line."""
    first, *_ = str(reason).splitlines() or [type(reason).__name__]
    return ValueError(
        "budget flops and reward progress need a model whose FLOPs can be counted, got one with: "
        f"{first}"
    )


class Budget(NamedTuple):
    """How much a run may use.

    Attributes:
        name: of what it is counted in; `epochs` are counted in steps.
        total: steps, FLOPs or seconds.
    """

    name: BudgetName
    total: float

    def used(self, trainer: "Trainer") -> float:
        """Share that a run has used, from 0; its last step may take it beyond 1."""
        return BUDGETS[self.name](trainer) / self.total
