"""What distinguishes a training from others."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.checks import InputError
from vit_patch_env.patches.shares import COST_SHARES

N_COSTS = len(COST_SHARES)
"""Numbers of patches, from a sixteenth to all, whose cost is known."""

N_FEATURES = 2
"""Numbers that the best schedule depends on."""


class RunContext(NamedTuple):
    """What is known of a training before it begins: see the info of the environment's `reset`.

    Attributes:
        budget_steps: steps on all patches that the budget is worth.
        n_images: to train on.
        n_classes: of them.
        n_patches: of an image.
        n_parameters: of the ViT.
        step_costs: of steps on 1/16, 1/8, 1/4, 1/2 and all of the patches, over that on all.
    """

    budget_steps: float
    n_images: float
    n_classes: float
    n_patches: float
    n_parameters: float
    step_costs: tuple[float, ...]

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> "RunContext":
        """The context in the info of a reset.

        Raises:
            InputError: naming what it lacks.
        """
        missing = [name for name in cls._fields if name not in info]
        if missing:
            raise InputError(
                f"expected an environment whose reset has {', '.join(cls._fields)} in its info, "
                f"got one without {', '.join(missing)}"
            )
        costs = tuple(float(one) for one in info["step_costs"])
        if len(costs) != N_COSTS:
            raise InputError(f"expected {N_COSTS} step_costs in the info of reset, got {costs}")
        return cls.from_numbers([*(float(info[name]) for name in cls._fields[:-1]), *costs])

    def numbers(self) -> list[float]:
        """All of it as a row of numbers."""
        return [*self[:-1], *self.step_costs]

    @classmethod
    def from_numbers(cls, row: list[float]) -> "RunContext":
        """The inverse of `numbers`."""
        steps, images, classes, patches, parameters, *costs = row
        return cls(steps, images, classes, patches, parameters, tuple(costs))

    def is_of_training(self, other: "RunContext") -> bool:
        """Whether runs of both are of the same training, but for times that were measured."""
        if self[1:5] != other[1:5]:
            return False
        longer = max(self.budget_steps, other.budget_steps, 1)
        shorter = max(min(self.budget_steps, other.budget_steps), 1)
        costs = zip(self.step_costs, other.step_costs, strict=True)
        return longer <= 1.25 * shorter and max(abs(one - two) for one, two in costs) < 0.1

    def features(self) -> NDArray[np.float64]:
        """What the best schedule depends on, (N_FEATURES,): the length, and what few patches cost.

        Logarithms, centred and scaled so that usual trainings are within about [-1, 1]. Images,
        classes, patches and parameters were tried as well, and did not help (docs/research.md).
        """
        return np.array(
            [
                (np.log2(max(self.budget_steps, 1)) - 8) / 4,
                (np.log2(max(self.step_costs[0], 1e-3)) + 3) / 2,
            ]
        )
