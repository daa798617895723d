"""How much of a run's time is due to steps that were slower than others of their kind."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

_KIND = ("n_selected", "rate")
"""Columns of `steps.csv` on which the work of a step depends."""


def slow_share(steps: pd.DataFrame, accumulate: int = 1, resumed_at: Sequence[int] = ()) -> float:
    """Share of the time of a run's training steps by which they exceeded the median of their kind.

    Steps of a kind are on the same number of patches, with the same share of tokens if the model
    changes it, and update the weights or only add to their gradients. On a quiet machine they
    differ by a few percent; other work on it makes some of them slower. A run that was slowed down
    evenly from its start to its end is not recognised by it.

    The first step of each kind in each process counts neither as slow nor as time, since it can
    include the allocation of memory or a compilation.

    Args:
        steps: as `step_table` makes it.
        accumulate: steps whose gradients make one update.
        resumed_at: steps after which another process resumed the run.

    Returns:
        The share, in [0, 1); NaN without times, as in files of version 0.1.
    """
    if "seconds" not in steps or steps["seconds"].isna().any():
        return math.nan
    number = np.arange(len(steps))
    process = np.searchsorted(sorted(resumed_at), number, side="right")
    steps = steps.assign(updates=(number + 1) % accumulate == 0, process=process)
    kinds = [name for name in (*_KIND, "updates") if name in steps]
    later = steps[steps.duplicated([*kinds, "process"])]
    medians = later.groupby(kinds, dropna=False)["seconds"].transform("median")
    total = float(later["seconds"].sum())
    return float((later["seconds"] - medians).clip(lower=0).sum()) / total if total else 0.0
