"""What torchrun, or another launcher, says of the processes that it has started."""

import os
from typing import NamedTuple

from vit_patch_env.checks import InputError

_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


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
    """This process among those that a launcher has started; None without one.

    Raises:
        InputError: if a launcher says that there are others, but not which this one is.
    """
    values = {name: os.environ.get(name) for name in _NAMES}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        if int(values["WORLD_SIZE"] or 1) > 1:
            raise InputError(
                f"expected {', '.join(_NAMES)} in the environment of each process that is started "
                f"with others, as torchrun sets them, got none of {', '.join(missing)}"
            )
        return None
    return Launch(*(int(value or 0) for value in values.values()))


def is_one_of_several() -> bool:
    """Whether this process was started with others."""
    launched = launch()
    return launched is not None and launched.size > 1


def follows() -> bool:
    """Whether another process, rank 0, has the environment, and this one trains with it."""
    launched = launch()
    return launched is not None and launched.rank > 0
