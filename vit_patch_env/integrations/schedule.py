"""The patches to train on in each step of a user's own training loop."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.agents import SCHEDULES
from vit_patch_env.checks import (
    ArgumentError,
    Count,
    FromZero,
    InputError,
    check,
    check_choice,
    shown,
)
from vit_patch_env.integrations.progress import OfFlops, OfSeconds, OfSteps, Progress
from vit_patch_env.names import ScheduleName
from vit_patch_env.patches.sampling import SAMPLERS, Grid, SamplingName
from vit_patch_env.training.schedule import learning_rate_factor

Positive = Annotated[float, Interval(gt=0)]

Shares = str | float | Callable[[float], float]
"""A name in `SCHEDULES`, a constant share, or a function of the share of the budget used."""


class PatchSchedule:
    """The patches to train on in each step, by the share of the budget that is used.

    ```python
    model = select_patches(timm.create_model("vit_small_patch16_224"))
    schedule = PatchSchedule("quadratic", n_patches=model.n_patches, total_steps=10_000)
    for step, (images, labels) in enumerate(loader):
        logits = model(images, keep=schedule(step))
    ```

    The patches of a step depend only on the arguments and the step, so a loop that is resumed at
    a step goes on as it would have; only with `seconds` does the clock decide, and `state_dict`
    keep the time.

    Args:
        shares: how many patches, as a share of all: `pss`, `pss_linear`, `flip`, `quadratic`; a
            constant share in (0, 1]; or a function that maps the share of the budget used, in
            [0, 1], to such a share.
        n_patches: number of patches of a square grid, or its rows and columns.
        total_steps: length of the loop; with `step_flops`, the steps on all patches that the
            budget is worth, so that there are more steps: `len(schedule)`.
        step_flops: maps a number of patches to the FLOPs of a step, as `count_step_flops` does.
        seconds: the budget is so much wall-clock time since the first step.
        epochs: of the loop, for schedules that repeat in each epoch.
        sampling: how patches are sampled: `spread` evenly over the image, or `uniform`.
        seed: of the samples.

    Raises:
        ValueError: for an unknown name, a share or number out of range, or not one budget.
    """

    def __init__(
        self,
        shares: Shares = "quadratic",
        *,
        n_patches: int | tuple[int, int],
        total_steps: int | None = None,
        step_flops: Callable[[int], float] | None = None,
        seconds: float | None = None,
        epochs: int = 1,
        sampling: SamplingName = "spread",
        seed: int = 0,
    ) -> None:
        check_choice(get_args(SamplingName), sampling=sampling)
        self.grid = _grid(n_patches)
        self.n_patches = math.prod(self.grid)
        self.epochs = check(Count, epochs=epochs)
        self.seed = check(FromZero, seed=seed)
        self._share = self._function(shares)
        self._sample = SAMPLERS[sampling]
        self._scores = np.zeros(self.n_patches)
        self._progress = self._budget(total_steps, step_flops, seconds)

    @classmethod
    def from_agent(
        cls,
        agent: str | Path = "pretrained",
        *,
        n_patches: int | tuple[int, int],
        total_steps: int | None = None,
        step_flops: Callable[[int], float] | None = None,
        seconds: float | None = None,
        budget_steps: int | None = None,
        step_seconds: Callable[[int], float] | None = None,
        seed: int = 0,
    ) -> Self:
        """The schedule that a bandit has learned, for any number of patches.

        It keeps as many patches as in `vit-patch train --agent` without `--agent-learns`.

        Args:
            agent: `pretrained`, or the file of a bandit that `vit-patch pretrain` wrote.
            n_patches: number of patches of a square grid, or its rows and columns.
            total_steps: as for the class.
            step_flops: as for the class.
            seconds: as for the class.
            budget_steps: the steps on all patches that the budget is worth, which the agent
                decides by as well; None: total_steps. Needed with seconds.
            step_seconds: maps a number of patches to the seconds of a step, for an agent that
                decides by it. Needed with seconds; with total_steps alone each step counts as one.
            seed: of the samples.

        Raises:
            ValueError: for an agent that decides by an observation, which only the environment
                has, a file that is no agent's, or as the class does.
        """
        # The class does not need it.
        from vit_patch_env.experiments.agents_by_name.learned import learned_schedule

        _check_budget(total_steps, step_flops, seconds)
        _check_function(step_seconds=step_seconds)
        if step_seconds is not None and seconds is None:
            raise ArgumentError(
                "step_seconds", "is for a budget of seconds, and must not be given with total_steps"
            )
        n_steps = total_steps if budget_steps is None else budget_steps
        if n_steps is None:
            raise ArgumentError(
                "budget_steps", f"must be given with seconds, got {shown(budget_steps)}"
            )
        grid = _grid(n_patches)
        learned = learned_schedule(
            str(agent) if isinstance(agent, Path) else agent,
            grid,
            check(Count, budget_steps=n_steps),
            _step_cost(step_flops, seconds, step_seconds),
        )
        schedule = cls(
            learned.shares,
            n_patches=grid,
            total_steps=total_steps,
            step_flops=step_flops,
            seconds=seconds,
            sampling=learned.sampling,
            seed=seed,
        )
        schedule._scores = learned.scores
        return schedule

    def __call__(self, step: int, batch_size: int | None = None) -> Tensor | None:
        """The patches of a step: ascending indices (n_keep,) int64, or None for all.

        Args:
            step: from 0.
            batch_size: samples patches for each of so many images: (batch_size, n_keep).
        """
        self.start()
        n_keep = self.n_keep(step)
        if n_keep == self.n_patches:
            return None
        rng = np.random.default_rng([self.seed, check(FromZero, step=step)])
        if batch_size is None:
            return torch.from_numpy(self._indices(n_keep, rng))
        rows = [self._indices(n_keep, rng) for _ in range(check(Count, batch_size=batch_size))]
        return torch.from_numpy(np.stack(rows))

    def __len__(self) -> int:
        """Steps of the loop.

        Raises:
            ValueError: for a budget of seconds, which ends by the clock.
        """
        if self.n_steps is None:
            raise InputError("a schedule with a budget of seconds has no number of steps")
        return self.n_steps

    @property
    def n_steps(self) -> int | None:
        """Steps of the loop; None for a budget of seconds, which ends by the clock."""
        return self._progress.n_steps

    def n_keep(self, step: int) -> int:
        """The number of patches of a step, in 1...n_patches."""
        return self._count(self.progress(step))

    def progress(self, step: int) -> float:
        """Share of the budget used before a step, in [0, 1]; with `seconds`, by now."""
        return self._progress.at(check(FromZero, step=step))

    def learning_rate(
        self, step: int, *, warmup: float = 0.05, schedule: ScheduleName = "cosine"
    ) -> float:
        """Share of the peak learning rate at a step, which follows the same budget.

        For `torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.learning_rate)`.

        Args:
            step: from 0.
            warmup: share of the budget for a linear warm-up, in [0, 1].
            schedule: what follows the warm-up: cosine or constant.
        """
        check_choice(get_args(ScheduleName), schedule=schedule)
        step_share = 1 / self.n_steps if self.n_steps else 0.0
        return learning_rate_factor(self.progress(step), step_share, warmup, schedule)

    def start(self) -> None:
        """Start the clock of a budget of seconds, as the first step's patches do."""
        if isinstance(self._progress, OfSeconds):
            self._progress.start()

    def paused(self) -> AbstractContextManager[None]:
        """Stop the clock of a budget of seconds within the block, for an evaluation, say."""
        return self._progress.paused() if isinstance(self._progress, OfSeconds) else nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed loop needs besides the step: seconds used, for a budget of seconds."""
        used = self._progress.used if isinstance(self._progress, OfSeconds) else None
        return {"seconds_used": used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of a schedule with the same arguments."""
        if isinstance(self._progress, OfSeconds):
            self._progress.used = float(state["seconds_used"])

    def _indices(self, n_keep: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return np.flatnonzero(self._sample(self._scores, n_keep, rng, self.grid))

    def _count(self, progress: float) -> int:
        share = float(self._share(progress))
        if not 0 <= share <= 1:
            raise InputError(f"shares of the patches must be in [0, 1], got {shown(share)}")
        return min(max(round(share * self.n_patches), 1), self.n_patches)

    def _function(self, shares: Any) -> Callable[[float], float]:
        if isinstance(shares, str):
            check_choice(tuple(SCHEDULES), shares=shares)
            return partial(_named_share, name=shares, epochs=self.epochs)
        if callable(shares):
            return shares  # type: ignore[no-any-return]
        if isinstance(shares, int | float) and not isinstance(shares, bool) and 0 < shares <= 1:
            return partial(_constant_share, share=float(shares))
        raise ArgumentError(
            "shares",
            f"must be one of {', '.join(SCHEDULES)}, a number in (0, 1] or a function, "
            f"got {shown(shares)}",
        )

    def _budget(
        self,
        total_steps: int | None,
        step_flops: Callable[[int], float] | None,
        seconds: float | None,
    ) -> Progress:
        _check_budget(total_steps, step_flops, seconds)
        if seconds is not None:
            return OfSeconds(check(Positive, seconds=seconds))
        n_steps = check(Count, total_steps=total_steps)
        if step_flops is None:
            return OfSteps(n_steps)
        return OfFlops(n_steps, self.n_patches, self._count, step_flops)


def _named_share(progress: float, name: str, epochs: int) -> float:
    """The share of a schedule in `SCHEDULES`."""
    return SCHEDULES[name](progress, epochs)


def _constant_share(progress: float, share: float) -> float:
    """The same share at any progress."""
    return share


def _step_cost(
    step_flops: Callable[[int], float] | None,
    seconds: float | None,
    step_seconds: Callable[[int], float] | None,
) -> Callable[[int], float]:
    """What a step on a number of patches takes of the budget."""
    name = "step_flops" if seconds is None else "step_seconds"
    function = step_flops if seconds is None else step_seconds

    def cost(n_keep: int) -> float:
        if function is not None:
            return float(check(Positive, **{f"{name}({n_keep})": function(n_keep)}))
        if seconds is None:
            return 1.0
        raise ArgumentError(
            "step_seconds", "must be given with seconds, for an agent that decides by it, got None"
        )

    return cost


def _check_budget(total_steps: Any, step_flops: Any, seconds: Any) -> None:
    """Require one budget."""
    _check_function(step_flops=step_flops)
    if (total_steps is None) == (seconds is None) or (seconds and step_flops):
        raise InputError(
            "a schedule needs a budget: either total_steps, perhaps with step_flops, or "
            f"seconds, got total_steps {total_steps} and seconds {seconds}"
        )


def _check_function(**functions: Any) -> None:
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise ArgumentError(name, f"must be a function, got {shown(function)}")


def _grid(n_patches: Any) -> Grid:
    """Rows and columns of patches."""
    if isinstance(n_patches, tuple | list) and len(n_patches) == 2:
        rows, columns = (check(Count, n_patches=side) for side in n_patches)
        return rows, columns
    side = math.isqrt(check(Count, n_patches=n_patches))
    if side**2 != n_patches:
        raise ArgumentError(
            "n_patches",
            f"must be a square number, or rows and columns such as (10, 14), got {n_patches}",
        )
    return side, side
