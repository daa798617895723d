"""Fixed schedules of the number of patches over a run, by name in `SCHEDULES`.

To add a schedule, write a function here and enter it in `SCHEDULES`. The first line of its
docstring describes it in tables of the documentation.
"""

from collections.abc import Callable
from dataclasses import dataclass

from vit_patch_env.checks import check_choice, check_integer

Schedule = Callable[[float, int], float]
"""Maps (share of the budget used, in [0, 1), epochs of the run) to a share of the patches."""


def pss(progress: float, epochs: int) -> float:
    """Cyclic patch sampling schedule: 20 % of the patches, up to all and back, in each epoch.

    McDanel and Huynh 2022, https://arxiv.org/abs/2208.09520: drop ratio 0.8 to 0 and back. The
    paper selects patches per image by magnitude; here the rule samples them per batch.
    """
    return 1 - 0.8 * abs(1 - 2 * (progress * epochs % 1))


def pss_linear(progress: float, epochs: int) -> float:
    """Linear patch sampling schedule: from 20 % of the patches to all over the run.

    The linear one of McDanel and Huynh 2022, https://arxiv.org/abs/2208.09520.
    """
    return 0.2 + 0.8 * progress


def flip(progress: float, epochs: int) -> float:
    """FLIP: half of the patches, then all of them in the last 5 % of the run.

    Li et al. 2023, https://arxiv.org/abs/2212.00794: 50 % masked, then unmasked tuning for
    0.32 of 6.4 to 32 epochs. The paper samples patches per image; here the rule does per batch.
    """
    return 1.0 if progress >= 0.95 else 0.5


def quadratic(progress: float, epochs: int) -> float:
    """From 1/16 of the patches to all, with the square of the progress.

    Our own: the best fixed schedule found by a manual search (docs/research.md).
    """
    return (1 + 15 * progress**2) / 16


SCHEDULES: dict[str, Schedule] = {
    "pss": pss,
    "pss_linear": pss_linear,
    "flip": flip,
    "quadratic": quadratic,
}
"""Every schedule by its name on the command line."""


@dataclass(frozen=True)
class ScheduledCount:
    """A named schedule as a function of the progress, for `FixedRule(n_keep=...)`.

    Attributes:
        name: in `SCHEDULES`.
        n_patches: of an image.
        epochs: of the run.

    Raises:
        ValueError: for an unknown name, or numbers that are not integers from 1.
    """

    name: str
    n_patches: int
    epochs: int

    def __post_init__(self) -> None:
        """Check the values."""
        check_choice(tuple(SCHEDULES), name=self.name)
        check_integer(1, n_patches=self.n_patches, epochs=self.epochs)

    def __call__(self, progress: float) -> int:
        """Number of patches to keep, in 1...n_patches, at a progress in [0, 1]."""
        share = SCHEDULES[self.name](progress, self.epochs)
        return int(min(max(round(share * self.n_patches), 1), self.n_patches))
