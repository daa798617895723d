"""A run's tables: a row per epoch or step, rewritten after every epoch."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vit_patch_env.checks import InputError
from vit_patch_env.reading import MEGABYTE
from vit_patch_env.system.files import replacing

METRICS, STEPS, SELECTED = "metrics.csv", "steps.csv", "selected.csv"

TABLE_BYTES = 256 * MEGABYTE
"""Of a table: about 20 million steps."""

_RESUMED_AT = "resumed_at"

_COLUMNS = 2**17
"""Of a table: the epoch, and a column for each patch of 4 x 4 pixels of 1,448 x 1,448."""


class EpochMetrics(NamedTuple):
    """One epoch of the first environment; a row of `metrics.csv`.

    Accuracies are in [0, 1], losses are cross-entropies. With several environments
    `agent_seconds` and `images_per_second` are NaN, as the agent's time is shared between them.
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
    waiting_share: float = math.nan  # of the time in which threads needed a CPU, without one


class RunTables:
    """`metrics.csv`, `steps.csv` and `selected.csv` of a run.

    They are also kept in memory, so that a disk that is full for a while leaves no gap, and that
    checkpoints can contain them.

    Args:
        folder: of the run.

    Attributes:
        resumed_at: steps after which the run was resumed, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._texts = dict.fromkeys((METRICS, STEPS, SELECTED), "")
        self._progress_factor = 1.0
        self.resumed_at: list[int] = []

    def append_epoch(
        self, metrics: EpochMetrics, selected: NDArray[np.float64], steps: pd.DataFrame
    ) -> None:
        """Add an epoch and write the files; if that fails, the next epoch writes them.

        Args:
            metrics: of the epoch.
            selected: share of its steps in which each patch was selected, (n_patches,).
            steps: of the epoch: see `step_table`.
        """
        shares = pd.DataFrame([selected.round(4)])
        shares.insert(0, "epoch", metrics.epoch)
        for name, rows in (
            (METRICS, pd.DataFrame([metrics._asdict()])),
            (SELECTED, shares),
            (STEPS, steps),
        ):
            begun = self._texts[name]
            if begun:  # maybe by an earlier version, which had fewer columns
                columns = begun.partition("\n")[0].split(",")
                rows = rows[[one for one in rows if str(one) in columns]]
            self._texts[name] += rows.to_csv(header=not self._texts[name], index=False)
        self._try_to_write()

    def waiting_share(self) -> float:
        """The mean share over the epochs so far, by their time; NaN if it is not known of all."""
        table = parse_table(self._texts[METRICS].encode())
        if "waiting_share" not in table:
            return math.nan
        shares = table["waiting_share"].to_numpy()
        return float(np.average(shares, weights=table["train_seconds"].to_numpy() + 1e-9))

    def steps(self) -> pd.DataFrame:
        """The steps of the epochs so far: see `step_table`."""
        return parse_table(self._texts[STEPS].encode(), ["n_selected"])

    def _try_to_write(self) -> None:
        try:
            self.write()
        except OSError as error:
            warnings.warn(
                f"the tables of {self.folder} cannot be written: {error.strerror}; the run "
                "continues, and writing is retried after the next epoch",
                stacklevel=2,
            )

    def write(self) -> None:
        """Write the files, replacing existing ones.

        Raises:
            OSError: if they cannot be written.
        """
        for name, text in self._texts.items():
            if text:
                with replacing(self.folder / name) as partial:
                    partial.write_text(text, encoding="utf-8", newline="\n")

    def scale_progress(self, factor: float) -> None:
        """Multiply the progress in the tables that are loaded, as of a run that is extended."""
        self._progress_factor = factor

    def state_dict(self) -> dict[str, Any]:
        """The tables' texts, and where the run was resumed."""
        return {**self._texts, _RESUMED_AT: list(self.resumed_at)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after these rows; later rows of the files are removed."""
        self._texts.update({name: state[name] for name in self._texts if name in state})
        # A checkpoint of an earlier version does not say where that was.
        self.resumed_at = [*state.get(_RESUMED_AT, []), *self.resumed_at]
        if self._progress_factor != 1 and self._texts[METRICS]:
            metrics = pd.read_csv(io.StringIO(self._texts[METRICS]), dtype=str)
            progress = metrics["progress"].astype(float) * self._progress_factor
            self._texts[METRICS] = metrics.assign(progress=progress).to_csv(index=False)
        self._try_to_write()


def step_table(n_selected: list[int], seconds: list[float], rates: list[float]) -> pd.DataFrame:
    """A row per step, with the columns of `steps.csv`: n_selected, seconds and maybe rate.

    Args:
        n_selected: patches selected in each step.
        seconds: of each training step, without the agent's.
        rates: share of tokens in each step, of models that change it over the run; NaN for others,
            which have no such column.
    """
    table = pd.DataFrame({"n_selected": n_selected, "seconds": np.round(seconds, 6)})
    return table if np.isnan(rates).all() else table.assign(rate=rates)


def parse_table(content: bytes, columns: Sequence[str] = ()) -> pd.DataFrame:
    """The numbers of a table, float64; empty cells are NaN.

    Args:
        content: of the file, as `RunTables` writes it.
        columns: that it must have.

    Raises:
        InputError: if it is no table of numbers, or a column is missing; says what came.
    """
    lines = content.splitlines()
    try:
        names = lines[0].decode("utf-8").split(",") if lines else []
    except UnicodeDecodeError as error:
        raise InputError(str(error)) from error
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(f"expected {', '.join(missing)}, got {len(names)} other columns")
    if len(set(names)) < len(names) or len(names) > _COLUMNS:
        raise InputError(f"{len(names)} columns, of which {len(set(names))} differ")
    # Quotes and rows of other lengths, of which pandas would make something.
    ragged = next((row for row, line in enumerate(lines) if line.count(b",") != len(names) - 1), 0)
    if ragged or b'"' in content or b"\0" in content:
        raise InputError(f"a row of other columns, or letters that are no numbers, row {ragged}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return pd.read_csv(
                io.BytesIO(content), dtype=np.float64, index_col=False, skip_blank_lines=False
            )
    except (ValueError, OverflowError, pd.errors.ParserWarning) as error:
        raise InputError(" ".join(str(error).split())) from error
