"""Shares of the patches at which the cost of a training step is given."""

COST_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


def counts_at(shares: tuple[float, ...], n_patches: int) -> list[int]:
    """Numbers of patches, at least 1, that are nearest to these shares."""
    return [max(round(share * n_patches), 1) for share in shares]
