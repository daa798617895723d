"""What torchrun, or another launcher, says of the processes that it has started."""

import os
from typing import NamedTuple


class Launch(NamedTuple):
    """This process among those that were started together.

    Attributes:
        rank: its number among all.
        local_rank: its number among those of its machine, and so of its GPU.
        size: number of processes.
    """

    rank: int
    local_rank: int
    size: int


def launch() -> Launch | None:
    """This process among those that were started together; None for a single one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return None
    return Launch(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), size)
