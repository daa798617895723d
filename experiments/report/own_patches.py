"""The accuracy of a run on its own patches: those that its agent or rule picks at the run's end."""

import math
from typing import NamedTuple

from vit_patch_env.agents import SCHEDULES, ScheduledCount
from vit_patch_env.experiments.compare.results import RunResult, complete_env


class OwnPatches(NamedTuple):
    """Test accuracy on a run's own patches.

    Attributes:
        accuracy: in [0, 1]; NaN where it is not known.
        n_patches: number of these patches; NaN where it is not known.
    """

    accuracy: float
    n_patches: float


def own_patches(run: RunResult) -> OwnPatches:
    """The accuracy on a run's own patches.

    Files of older versions do not say how many patches those are, and have the accuracy of a
    schedule on its mean number. One that ends with all patches has that on all patches at its end;
    that of another schedule is not known.
    """
    accuracy = run.test_metric("accuracy", "agent_patches")
    n_patches = run.n_patches_on_test
    if math.isfinite(n_patches):
        return OwnPatches(accuracy, n_patches)
    options = run.config["options"]
    name, n_all = options.get("agent"), run.selected.shape[1]
    if name == "matched":
        return OwnPatches(math.nan, math.nan)
    if name in SCHEDULES:
        epochs = int(complete_env(options["env"])["epochs"])
        if ScheduledCount(name, n_all, epochs)(1.0) < n_all:
            return OwnPatches(math.nan, math.nan)
        return OwnPatches(run.test_metric("accuracy"), n_all)
    return OwnPatches(accuracy, math.nan)
