"""The policy of a ScheduleBandit: the schedule that is best for a training, and its patches."""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.agents.common.patch_policy import (
    PatchPolicy,
    check_run_features,
    observed_progress,
)
from vit_patch_env.agents.fixed_rules.growing import GrowingCount, GrowingOptions
from vit_patch_env.agents.schedule_bandit.context import RunContext
from vit_patch_env.agents.schedule_bandit.model import CANDIDATES, ScheduleModel
from vit_patch_env.agents.schedule_bandit.options import ScheduleOptions
from vit_patch_env.checks import InputError, shown
from vit_patch_env.patches.sampling import SAMPLERS, Grid, SamplingName, grid_of

_N_CONTEXT = 10
_N_ROW = _N_CONTEXT + 5
"""Numbers of a finished run: its context, the four of its schedule (power 0: none), its value."""


class FinishedRun(NamedTuple):
    """A run that a policy learns from.

    Attributes:
        context: of the training.
        schedule: that it followed.
        value: the higher, the better; compared with those of other runs of this training.
    """

    context: RunContext
    schedule: GrowingOptions
    value: float


class SchedulePolicy(PatchPolicy):
    """Keeps as many patches as the schedule that is best for the training, sampled for each batch.

    It holds the finished runs that it has learned from, and so can learn from more.

    Types and ranges of its hyperparameters are declared in `ScheduleOptions`.

    Args:
        observation_space: Box(n_patches + 3,), the run features last.
        action_space: MultiBinary(n_patches).
        common_share: share of the variance that all trainings have in common.
        schedule_scale: how unlike schedules are whose values differ.
        context_scale: the same of trainings.
        noise: variance of a run's value by chance.
        caution: by how much of what is not known of a schedule its value is lowered.
        sampling: how patches are sampled: `uniform`, or `spread` evenly over the image.
        seed: of the samples of the model and of patches.
        grid: rows and columns of patches, if they are known.

    Attributes:
        runs: finished runs, (n_runs, 15) float64.
        schedule: that is used now.

    Raises:
        ValueError: for an observation without run features, a value outside its range, or `spread`
            where the grid is not known and no square.
    """

    runs: Tensor
    context: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.MultiBinary,
        common_share: float = ScheduleOptions.common_share,
        schedule_scale: float = ScheduleOptions.schedule_scale,
        context_scale: float = ScheduleOptions.context_scale,
        noise: float = ScheduleOptions.noise,
        caution: float = ScheduleOptions.caution,
        sampling: SamplingName = ScheduleOptions.sampling,
        seed: int | None = None,
        grid: Grid | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, seed, grid)
        check_run_features(observation_space, self.n_patches, "the bandit")
        options = ScheduleOptions(  # checks the values
            common_share=common_share,
            schedule_scale=schedule_scale,
            context_scale=context_scale,
            noise=noise,
            caution=caution,
            sampling=sampling,
        )
        if options.sampling == "spread":
            grid_of(self.n_patches, self.grid)
        self.sampling = options.sampling
        self.model = ScheduleModel(options)
        self.schedule = GrowingOptions()
        self._tried: list[GrowingOptions] = []
        self.register_buffer("runs", torch.zeros((0, _N_ROW), dtype=torch.float64))
        # Of the run that it is used in; before the first one, as of a small ViT on CIFAR-10.
        usual = RunContext(700, 45_000, 10, self.n_patches, 140_000, (0.05, 0.1, 0.2, 0.5, 1.0))
        self.register_buffer("context", torch.tensor(usual.numbers(), dtype=torch.float64))

    def record(self, *runs: FinishedRun) -> None:
        """Learn from finished runs.

        Raises:
            ValueError: for a value that is not a finite number.
        """
        rows = [[*run.context.numbers(), *_numbers(run.schedule), run.value] for run in runs]
        new = torch.tensor(rows, dtype=torch.float64).reshape(-1, _N_ROW)
        _check_finite(new)
        self.runs = torch.cat((self.runs, new))
        self._fit()

    def use(self, context: RunContext, schedule: GrowingOptions | None = None) -> None:
        """Use a schedule in a training.

        By default it is the one that is worth most, as far as that is known, of those that some run
        has followed: what was never tried may be anything. Before the first run it is `quadratic`.
        """
        self.context = torch.tensor(context.numbers(), dtype=torch.float64)
        if schedule is None:
            schedule = GrowingOptions()
            if self._tried:
                schedule = self._tried[int(self.model.safe(context, self._tried).argmax())]
        self.schedule = schedule

    def sampled_schedule(self, context: RunContext) -> GrowingOptions:
        """The best schedule for a training under a sample of the posterior."""
        return CANDIDATES[int(self.model.sampled(context, CANDIDATES, self.rng).argmax())]

    def n_keep(self, progress: float) -> int:
        """The number of patches at a share of the budget."""
        return GrowingCount(self.schedule, self.n_patches)(progress)

    def sample_patches(self, n_keep: int, rng: np.random.Generator) -> NDArray[np.int8]:
        """A mask (n_patches,) of so many patches."""
        return SAMPLERS[self.sampling](np.zeros(self.n_patches), n_keep, rng, self.grid)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what a policy has learned, on any number of patches.

        Raises:
            ValueError: for runs that are not finite numbers, or of another form.
        """
        runs, context = state_dict.get("runs"), state_dict.get("context")
        if (
            not isinstance(runs, Tensor)
            or runs.ndim != 2
            or runs.shape[1] != _N_ROW
            or not isinstance(context, Tensor)
            or context.shape != (_N_CONTEXT,)
        ):
            got = " and ".join(
                str(tuple(one.shape)) if isinstance(one, Tensor) else shown(one)
                for one in (runs, context)
            )
            raise InputError(
                f"expected runs of {_N_ROW} numbers each and a context of {_N_CONTEXT}, got {got}"
            )
        _check_finite(runs)
        _check_finite(context)
        self.runs = torch.zeros_like(runs, dtype=torch.float64)
        result = super().load_state_dict(state_dict, strict, assign)
        self._fit()
        self.use(RunContext.from_numbers(self.context.tolist()))
        return result

    def _fit(self) -> None:
        """Fit the model to the runs."""
        rows = self.runs.tolist()
        contexts = [RunContext.from_numbers(row[:_N_CONTEXT]) for row in rows]
        schedules = [_schedule(*row[_N_CONTEXT:-1]) for row in rows]
        self.model.fit(contexts, schedules, [row[-1] for row in rows])
        self._tried = list(dict.fromkeys(schedules))

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        """As many patches as the schedule keeps; the same for the same observation if asked for."""
        masks = []
        for one in observation.cpu().numpy():
            rng = self.rng
            if deterministic:
                rng = np.random.default_rng([self.seed or 0, zlib.crc32(one.tobytes())])
            masks.append(
                self.sample_patches(self.n_keep(observed_progress(one, self.n_patches)), rng)
            )
        return torch.from_numpy(np.stack(masks))


def _numbers(schedule: GrowingOptions) -> list[float]:
    return [
        schedule.first_share,
        schedule.power or 0.0,
        schedule.last_share,
        schedule.all_share,
    ]


def _schedule(first: float, power: float, last: float, all_share: float) -> GrowingOptions:
    return GrowingOptions(
        first_share=first, power=power or None, last_share=last, all_share=all_share
    )


def _check_finite(numbers: Tensor) -> None:
    if not torch.isfinite(numbers).all():
        raise InputError("expected runs of finite numbers")
