"""A family of schedules: a number of patches that grows over the run, with four parameters."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval
from typing_extensions import Doc

from vit_patch_env.arguments import Search, arguments
from vit_patch_env.checks import Share, check_integer


@arguments
class GrowingOptions:
    """The share of the patches over a run: first + (last - first) * progress^power, then all.

    The defaults are the schedule `quadratic`. All patches are a first share of 1, a constant number
    has no power, and FLIP is a constant number with a share of the budget on all.
    """

    first_share: Annotated[
        Share,
        Search(1 / 32, 1.0, log=True),
        Doc("share of the patches at the start of the run"),
    ] = 1 / 16
    power: Annotated[
        float | None,
        Interval(gt=0, le=100),
        Search(0.5, 16.0, log=True),
        Doc("of the progress with which the number grows, to `last_share`; None: it stays"),
    ] = 2.0
    last_share: Annotated[
        Share,
        Search(1 / 4, 1.0),
        Doc("share of the patches to which the number grows, at least `first_share`"),
    ] = 1.0
    all_share: Annotated[
        float,
        Interval(ge=0, lt=1),
        Search(0.0, 0.5),
        Doc("share of the budget at the end of the run that is spent on all patches"),
    ] = 0.0

    def described(self) -> str:
        """The schedule in words."""
        if self.first_share == 1:
            return "all patches"
        words = f"{self.first_share:.3g} of the patches"
        if self.power is not None and self.last_share > self.first_share:
            last = "all" if self.last_share == 1 else f"{self.last_share:.3g}"
            words += f", growing to {last} with power {self.power:g}"
        return words + (f", all for the last {self.all_share:.0%}" if self.all_share else "")

    def share(self, progress: float) -> float:
        """Share of the patches, in (0, 1], at a share of the budget, in [0, 1]."""
        progress /= 1 - self.all_share
        if progress >= 1 and self.all_share:
            return 1.0
        grown = 0.0 if self.power is None else min(progress, 1.0) ** self.power
        return self.first_share + max(self.last_share - self.first_share, 0.0) * grown


@dataclass(frozen=True)
class GrowingCount:
    """A growing number of patches as a function of the progress, for `FixedRule(n_keep=...)`.

    Attributes:
        options: of the schedule.
        n_patches: of an image.

    Raises:
        ValueError: for a number of patches that is not an integer from 1.
    """

    options: GrowingOptions
    n_patches: int

    def __post_init__(self) -> None:
        """Check the number."""
        check_integer(1, n_patches=self.n_patches)

    def __call__(self, progress: float) -> int:
        """Number of patches to keep, in 1...n_patches, at a progress in [0, 1]."""
        return max(round(self.options.share(progress) * self.n_patches), 1)
