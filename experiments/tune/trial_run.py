"""A run of a trial: trained and evaluated on validation images, without files."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from vit_patch_env.data.splits import ImageData
from vit_patch_env.data.texts import TextData
from vit_patch_env.experiments.agents_by_name.factory import make_agent
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.run_folder.tables import EpochMetrics
from vit_patch_env.experiments.runs.environment import make_env_on
from vit_patch_env.experiments.runs.epoch_sums import StepMetrics
from vit_patch_env.experiments.runs.monitor import TrainingMonitor


class RunOutcome(NamedTuple):
    """What a run came to.

    Attributes:
        accuracy: on the validation images, on all patches, at the end of the budget.
        n_selected: patches per step, on average.
    """

    accuracy: float
    n_selected: float


class DivergedError(Exception):
    """A run whose loss was not finite."""


def train_and_validate(
    options: TrainOptions,
    data: ImageData | TextData,
    *,
    on_step: Callable[[], None],
    on_point: Callable[[int, float], None],
) -> RunOutcome:
    """Train a ViT as `vit-patch train` does with these options. Test images are not used.

    Both functions may raise an exception to end the run.

    Args:
        options: of the run.
        data: its images, so that they are loaded only once.
        on_step: called after every step.
        on_point: called with the number of points reached, from 1, and the validation accuracy
            there. The budget has `epochs` points, so that runs whose epochs use different shares of
            it are compared at equal shares.

    Raises:
        DivergedError: if the loss was not finite.
        ValueError: for values that are not possible.
    """
    env = make_env_on(data, options.env)
    reached = 0
    latest: EpochMetrics | None = None

    def end_epoch(metrics: EpochMetrics) -> None:
        nonlocal reached, latest
        if not math.isfinite(metrics.val_loss):
            raise DivergedError("the loss is not finite")
        latest = metrics
        n_points = math.ceil(options.env.epochs)
        # Shares of the budget are exact but for rounding.
        point = min(math.floor(metrics.progress * n_points + 1e-6), n_points)
        started = time.perf_counter()
        while reached < point:
            reached += 1
            on_point(reached, metrics.val_accuracy)
        env.exclude_time(time.perf_counter() - started)

    def end_step(_: StepMetrics) -> None:
        on_step()

    monitor = TrainingMonitor(max_episodes=1, on_step=end_step, on_epoch=end_epoch)
    try:
        make_agent(options, env).learn(env.max_steps, callback=monitor)
    finally:
        env.close()
    if monitor.diverged or latest is None:
        raise DivergedError("the loss is not finite")
    return RunOutcome(latest.val_accuracy, monitor.n_selected_mean)
