"""Numbers of patches per step over a run: fixed schedules from the literature."""

from collections.abc import Callable

Schedule = Callable[[int, int, int], list[int]]
"""Maps n_patches, n_steps and steps_per_epoch to n_steps numbers of patches."""


def pss(n_patches: int, n_steps: int, steps_per_epoch: int) -> list[int]:
    """A patch sampling schedule in cycles of an epoch: a fifth of the patches, all, a fifth.

    McDanel and Huynh 2022, https://arxiv.org/abs/2208.09520: drop ratio 0.8 to 0 and back. There
    the patches are chosen per image by magnitude; here the caller draws them.
    """
    positions = (step % steps_per_epoch / steps_per_epoch for step in range(n_steps))
    return [_share(n_patches, 1 - 0.8 * abs(1 - 2 * position)) for position in positions]


def pss_linear(n_patches: int, n_steps: int, steps_per_epoch: int) -> list[int]:
    """A patch sampling schedule that grows over the run from a fifth of the patches to all.

    The linear one of McDanel and Huynh 2022, https://arxiv.org/abs/2208.09520.
    """
    return [_share(n_patches, 0.2 + 0.8 * step / n_steps) for step in range(n_steps)]


def flip(n_patches: int, n_steps: int, steps_per_epoch: int) -> list[int]:
    """Half of the patches, and all of them in the last 5 % of the run (at least one step).

    FLIP (Li et al. 2023, https://arxiv.org/abs/2212.00794): 50 % masked, then unmasked tuning for
    0.32 of 6.4 to 32 epochs. There the patches are drawn per image, here per batch.
    """
    n_full = max(round(0.05 * n_steps), 1)
    return [_share(n_patches, 0.5)] * (n_steps - n_full) + [n_patches] * n_full


SCHEDULES: dict[str, Schedule] = {"pss": pss, "pss_linear": pss_linear, "flip": flip}


def _share(n_patches: int, share: float) -> int:
    return min(max(round(share * n_patches), 1), n_patches)
