"""Which runs took longer than they should have, because something else used the machine."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from vit_patch_env.checks import counted
from vit_patch_env.experiments.compare.results import Comparison, RunResult
from vit_patch_env.experiments.report.words import listed

MAX_SLOW_SHARE = 0.1
"""Share of a run's time due to slow steps (see `slow_share`) above which it is disturbed."""

MAX_WAITING_SHARE = 0.1
"""Share of the time that threads waited for a CPU above which a run is disturbed."""

MAX_RATIO = 1.25
"""Time per step relative to the fastest run of the method above which a run is disturbed."""

_MAX_PATCHES_RATIO = 1.1
"""Mean numbers of patches between which times per step are compared."""


class Disturbances(NamedTuple):
    """The disturbed runs of a comparison, and what is not known of the others.

    A run is disturbed if one of these is above its limit:

    - `waiting_share` of its result.json: how long threads waited for a CPU, where the system says;
    - `slow_share` of its result.json: how much of its time is due to slow steps, on any device;
    - the time per step, relative to the fastest run of the same method on the same machine and
      about as many patches.

    Attributes:
        reasons: why a run is disturbed, in words, by method and seed.
        n_unknown: number of runs without the first two, as they are of an older version.
    """

    reasons: dict[tuple[str, int], str]
    n_unknown: int


def disturbances(comparison: Comparison) -> Disturbances:
    """The disturbed runs among those that did not diverge."""
    runs = {key: run for key, run in comparison.runs.items() if not run.diverged}
    reasons = {}
    for key, run in runs.items():
        if run.waiting_share > MAX_WAITING_SHARE:
            reasons[key] = f"it waited for a CPU for {run.waiting_share:.0%} of its time"
            continue
        if run.slow_share > MAX_SLOW_SHARE:
            reasons[key] = f"slow steps took {run.slow_share:.0%} of its time"
            continue
        ratio = _ratio_to_fastest(run, comparison.valid_runs(run.method))
        if ratio > MAX_RATIO:
            reasons[key] = f"{ratio:.2f} times as slow as its method's fastest run"
    return Disturbances(reasons, sum(math.isnan(run.slow_share) for run in runs.values()))


def _ratio_to_fastest(run: RunResult, others: Iterable[RunResult]) -> float:
    """Time per step relative to the fastest of the runs that do the same on the same machine."""
    alike = [_step_seconds(one) for one in others if _are_alike(one, run)]
    known = [seconds for seconds in alike if seconds > 0]
    return _step_seconds(run) / min(known) if known else math.nan


def _are_alike(one: RunResult, other: RunResult) -> bool:
    keys = ("machine", "device_name", "precision")
    few, many = sorted((one.n_patches, other.n_patches))
    return many <= _MAX_PATCHES_RATIO * few and all(
        one.result[key] == other.result[key] for key in keys
    )


def _step_seconds(run: RunResult) -> float:
    n_steps = run.metric("n_steps")
    return run.seconds / n_steps if n_steps else math.nan


def disturbance_notes(comparison: Comparison, found: Disturbances) -> list[str]:
    """Sentences on the disturbed runs, and on the runs of which it is not known."""
    notes = []
    if found.reasons:
        names = listed(
            f"{method}__{seed} ({reason})" for (method, seed), reason in found.reasons.items()
        )
        fewer = " They made fewer steps in their time." if comparison.budget == "seconds" else ""
        notes.append(
            f"Disturbed by other work on the machine, so that their times are in no mean, ratio or "
            f"plot (unless all runs of a method are, which its time says): {names}.{fewer}"
        )
    if found.n_unknown:
        n_runs = sum(not run.diverged for run in comparison.runs.values())
        notes.append(
            f"Whether other work slowed a run down was not recorded in {found.n_unknown} of "
            f"{counted(n_runs, 'run')}, which an older version made. These count as undisturbed "
            f"unless a step took more than {MAX_RATIO} times as long as in the fastest run of the "
            "method, which one seed alone cannot show: differences in time can be due to other "
            "work on the machine."
        )
    return notes
