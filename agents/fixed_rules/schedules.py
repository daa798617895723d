"""Numbers of patches over a run: fixed schedules, as functions of the budget used."""

from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[float, int], float]
"""Maps the share of the budget used, in [0, 1), and a run's epochs to a share of the patches."""


def pss(progress: float, epochs: int) -> float:
    """A patch sampling schedule in cycles of an epoch: a fifth of the patches, all, a fifth.

    McDanel and Huynh 2022, https://arxiv.org/abs/2208.09520: drop ratio 0.8 to 0 and back. There
    the patches are chosen per image by magnitude; here the caller draws them.
    """
    return 1 - 0.8 * abs(1 - 2 * (progress * epochs % 1))


def pss_linear(progress: float, epochs: int) -> float:
    """A patch sampling schedule that grows over the run from a fifth of the patches to all.

    The linear one of McDanel and Huynh 2022, https://arxiv.org/abs/2208.09520.
    """
    return 0.2 + 0.8 * progress


def flip(progress: float, epochs: int) -> float:
    """Half of the patches, and all of them in the last 5 % of the run.

    FLIP (Li et al. 2023, https://arxiv.org/abs/2212.00794): 50 % masked, then unmasked tuning for
    0.32 of 6.4 to 32 epochs. There the patches are drawn per image, here per batch.
    """
    return 1.0 if progress >= 0.95 else 0.5


def quadratic(progress: float, epochs: int) -> float:
    """A sixteenth of the patches at first, growing with the square of the progress to all.

    Ours: the best fixed schedule that a search by hand found (RESEARCH.md).
    """
    return (1 + 15 * progress**2) / 16


SCHEDULES: dict[str, Schedule] = {
    "pss": pss,
    "pss_linear": pss_linear,
    "flip": flip,
    "quadratic": quadratic,
}


@dataclass(frozen=True)
class ScheduledCount:
    """A schedule by name for so many patches and epochs: maps progress to a number of patches."""

    name: str
    n_patches: int
    epochs: int

    def __call__(self, progress: float) -> int:
        """Patches to keep where that share of the budget is used, in 1...n_patches."""
        share = SCHEDULES[self.name](progress, self.epochs)
        return min(max(round(share * self.n_patches), 1), self.n_patches)
