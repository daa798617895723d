"""Runs in Weights & Biases and MLflow: an output of Stable-Baselines3's logger for each."""

import os
import shlex
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.logger import Image, KVWriter

from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.options.commands import TrackerName
from vit_patch_env.experiments.process.messages import require_extra

_RETRY_SECONDS = 60.0
_ENTRIES = 100
"""Parameters that MLflow takes at once."""

Pictures = dict[str, NDArray[np.uint8]]


class Tracker(KVWriter, ABC):
    """A run in a tracker, which a logger writes points to.

    What a tracker does not take is lost with a warning, since training must not end because a
    server cannot be reached; the run's tables contain every epoch. Writing is tried again after a
    minute.

    Attributes:
        run_id: of the run in the tracker, to continue it when the run is resumed.
        place: where the run can be seen, in words.
    """

    name: ClassVar[TrackerName]
    run_id: str
    place: str

    def __init__(self) -> None:
        self._retry_at = 0.0

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Write the numbers and images of a step."""
        if time.monotonic() < self._retry_at:
            return
        pictures = {
            key: np.asarray(one.image)  # as a run logs them: (height, width, channels), uint8
            for key, one in key_values.items()
            if isinstance(one, Image)
        }
        try:
            self._log(dict(numbers(key_values)), pictures, step)
        except Exception as error:  # whatever the library or its server raises
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            warnings.warn(
                f"points cannot be written to {self.name}: {_one_line(error)}; the run continues, "
                f"and writing is retried in {_RETRY_SECONDS:.0f} s",
                stacklevel=2,
            )

    def close(self) -> None:
        """Nothing: a logger is closed before the ViT is tested, and the run's end is `finish`."""

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """End the run in the tracker.

        Args:
            result: whose numbers become the run's summary, such as `test/all_patches/accuracy`;
                None for a run that was interrupted or failed.
        """
        try:
            self._finish(None if result is None else dict(numbers(result)))
        except Exception as error:
            warnings.warn(
                f"the run's end cannot be written to {self.name}: {_one_line(error)}", stacklevel=2
            )

    @abstractmethod
    def _log(self, values: dict[str, float], pictures: Pictures, step: int) -> None: ...

    @abstractmethod
    def _finish(self, values: dict[str, float] | None) -> None: ...


class WandbTracker(Tracker):
    """A run in Weights & Biases, in the project `WANDB_PROJECT` (by default vit-patch-env).

    Args:
        title: of a new run.
        config: the run's options.
        run_id: of the run to continue; None for a new one.
    """

    name = "wandb"

    def __init__(self, title: str, config: Mapping[str, Any], run_id: str | None = None) -> None:
        import wandb

        super().__init__()
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "vit-patch-env"),
            name=title,
            id=run_id,
            resume="allow",
            reinit="create_new",  # a notebook may have a run of its own
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.config.update(dict(config), allow_val_change=True)
        # As a resumed run repeats the steps after its checkpoint, which W&B's own count refuses.
        self._run.define_metric("*", step_metric="step")
        self.run_id = self._run.id
        synced = shlex.quote(str(Path(self._run.dir).parent))
        self.place = f"wandb sync {synced}" if self._run.offline else str(self._run.url)

    def _log(self, values: dict[str, float], pictures: Pictures, step: int) -> None:
        import wandb

        images = {key: wandb.Image(pixels) for key, pixels in pictures.items()}
        self._run.log({**values, **images, "step": step})

    def _finish(self, values: dict[str, float] | None) -> None:
        self._run.summary.update(values or {})
        self._run.finish(exit_code=int(values is None))


class MLflowTracker(Tracker):
    """A run in MLflow, in `MLFLOW_TRACKING_URI` and the experiment `MLFLOW_EXPERIMENT_NAME`.

    The options are parameters, which MLflow does not let change: those of a new run remain.

    Args:
        title: of a new run.
        config: the run's options.
        run_id: of the run to continue; None for a new one.
    """

    name = "mlflow"

    def __init__(self, title: str, config: Mapping[str, Any], run_id: str | None = None) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        super().__init__()
        self._client = MlflowClient()
        if run_id is None:
            self.run_id = self._client.create_run(self._experiment(), run_name=title).info.run_id
            params = [Param(key, str(value)) for key, value in config.items()]
            for first in range(0, len(params), _ENTRIES):
                self._client.log_batch(self.run_id, params=params[first : first + _ENTRIES])
        else:
            self.run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
        self.place = f"{self._client.tracking_uri}, run {self.run_id}"

    def _experiment(self) -> str:
        """The id of the experiment, which is created if there is none of its name."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if name is None:
            return os.environ.get("MLFLOW_EXPERIMENT_ID", "0")  # 0: MLflow's default
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def _log(self, values: dict[str, float], pictures: Pictures, step: int) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        metrics = [Metric(key, value, now, step) for key, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)
        for key, pixels in pictures.items():
            self._client.log_image(self.run_id, pixels, key=key, step=step)

    def _finish(self, values: dict[str, float] | None) -> None:
        if values is not None:
            self._log(values, {}, step=int(values.get("n_steps", 0)))
        self._client.set_terminated(self.run_id, "KILLED" if values is None else "FINISHED")


TRACKERS: dict[TrackerName, type[WandbTracker] | type[MLflowTracker]] = {
    "wandb": WandbTracker,
    "mlflow": MLflowTracker,
}


def check_trackers(names: tuple[TrackerName, ...]) -> None:
    """Import the trackers' libraries.

    Raises:
        InputError: naming the extra of one that cannot be imported.
    """
    for name in names:
        require_extra(name, name)


def start_tracker(
    name: TrackerName, title: str, config: Mapping[str, Any], run_id: str | None
) -> Tracker:
    """Start a run in a tracker, or continue one.

    Args:
        name: of the tracker.
        title: of a new run.
        config: the run's options.
        run_id: of the run to continue; None for a new one.

    Raises:
        ArgumentError: if the tracker refuses it, such as without a login.
    """
    try:
        return TRACKERS[name](title, config, run_id)
    except Exception as error:  # whatever the library or its server raises
        of_run = "" if run_id is None else f" with the run {run_id}"
        raise ArgumentError(
            "track",
            f"must be trackers that can be written to, got {name}{of_run}: {_one_line(error)}",
        ) from error


def numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in a mapping and those within it, by keys such as `test/all_patches/f1`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{key}/")
        elif isinstance(value, Real):
            yield f"{prefix}{key}", float(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
