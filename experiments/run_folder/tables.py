"""A run's tables: a row for each epoch and step, written whole at every epoch's end."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vit_patch_env.system.files import replacing

METRICS, STEPS, SELECTED = "metrics.csv", "steps.csv", "selected.csv"


class EpochMetrics(NamedTuple):
    """One epoch of the first environment; a row of `metrics.csv`.

    Accuracies are in [0, 1], losses are cross-entropies. With several environments the agent's time
    cannot be attributed to one of them: `agent_seconds` and `images_per_second` are NaN.
    """

    epoch: int  # of its episode, from 1
    train_loss: float
    val_loss: float
    val_accuracy: float
    n_selected: float
    reward: float
    epsilon: float | None
    images_per_second: float
    train_seconds: float
    agent_seconds: float
    flops: float  # of training steps, observations and rewards
    progress: float  # share of the budget used at its end
    n_skipped: int  # steps whose gradient was not finite


class RunTables:
    """`metrics.csv`, `steps.csv` and `selected.csv` of a run.

    They are kept in memory too, so that a disk that was full for a while leaves no gap, and that a
    checkpoint can hold them.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._texts = dict.fromkeys((METRICS, STEPS, SELECTED), "")

    def append_epoch(
        self, figures: EpochMetrics, selected: NDArray[np.float64], n_selected: list[int]
    ) -> None:
        """Add an epoch, and write the files; where they cannot be written, the next epoch does.

        Args:
            figures: of the epoch.
            selected: share of its steps in which each patch was selected, (n_patches,).
            n_selected: patches selected in each of its steps.
        """
        shares = pd.DataFrame([selected.round(4)])
        shares.insert(0, "epoch", figures.epoch)
        for name, rows in (
            (METRICS, pd.DataFrame([figures._asdict()])),
            (SELECTED, shares),
            (STEPS, pd.DataFrame({"n_selected": n_selected})),
        ):
            self._texts[name] += rows.to_csv(header=not self._texts[name], index=False)
        self._try_to_write()

    def _try_to_write(self) -> None:
        try:
            self.write()
        except OSError as error:
            warnings.warn(
                f"the tables of {self.folder} cannot be written: {error.strerror}; the run goes "
                "on, and this is tried again after the next epoch",
                stacklevel=2,
            )

    def write(self) -> None:
        """Write the files, each in the place of what is there.

        Raises:
            OSError: if they cannot be written.
        """
        for name, text in self._texts.items():
            if text:
                with replacing(self.folder / name) as partial:
                    partial.write_text(text)

    def state_dict(self) -> dict[str, str]:
        """The tables' texts."""
        return dict(self._texts)

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Go on behind these rows; what the files have beyond them is left out."""
        self._texts.update(state)
        self._try_to_write()
