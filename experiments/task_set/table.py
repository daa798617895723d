"""The tasks of the set: one table, fixed before anything is learned.

A task is a data set, a ViT, a grid of patches, a budget, and the currency that the budget is in.
Held-out tasks share neither data nor ViT nor length of the budget with training tasks. The budget
is a number of epochs on all patches: fewer patches per step buy more steps, as many as the currency
says. In `time` each step has a fixed cost besides its FLOPs, of the size that machines have.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from vit_patch_env.checks import ArgumentError
from vit_patch_env.config import EnvConfig

Currency = Literal["flops", "time"]
"""What steps are charged: their FLOPs, or these and a fixed cost, as on a machine."""

SplitOfTasks = Literal["training", "held-out"]


class _Data(NamedTuple):
    """A data set of tasks.

    Attributes:
        folder: of the images, within that of all data sets; None for the digits.
        train_fraction: of the training images.
        batch_size: images per step.
    """

    folder: str | None
    train_fraction: float = 1.0
    batch_size: int = 128


_DATA = {
    "digits": _Data(None, batch_size=32),
    "cifar10": _Data("cifar10"),
    "cifar10_half": _Data("cifar10", 0.5),
    "cifar10_quarter": _Data("cifar10", 0.25),
    "cifar10_eighth": _Data("cifar10", 0.125),
    "cifar100_half": _Data("cifar100", 0.5),
    "cifar100_quarter": _Data("cifar100", 0.25),
    "cifar100_eighth": _Data("cifar100", 0.125),
    "ants_bees": _Data("ants-bees", batch_size=32),
}

VITS: dict[str, dict[str, Any]] = {
    "xs": {"dim": 32, "depth": 2, "heads": 2, "dim_head": 16, "mlp_dim": 64},
    "s": {"dim": 64, "depth": 4, "heads": 4, "dim_head": 16, "mlp_dim": 128},
    "m": {"dim": 96, "depth": 4, "heads": 3, "dim_head": 32, "mlp_dim": 192},
}
"""Sizes of ViTs: about 20,000, 140,000 and 310,000 parameters."""

_GRIDS = {
    49: {"image_size": 28, "patch_size": 4},
    64: {"image_size": 32, "patch_size": 4},
    144: {"image_size": 24, "patch_size": 2},
    196: {"image_size": 28, "patch_size": 2},
}
_PHOTO_GRIDS = {
    64: {"image_size": 96, "patch_size": 12},
    144: {"image_size": 96, "patch_size": 8},
}
"""Sizes of images and patches by the number of patches; of photographs, 96 pixels."""

_ROWS: tuple[tuple[SplitOfTasks, str, int, str, float, float], ...] = (
    ("training", "digits", 64, "xs", 2, 0),
    ("training", "digits", 64, "xs", 16, 0),
    ("training", "digits", 49, "s", 8, 0),
    ("training", "digits", 64, "s", 1, 1),
    ("training", "digits", 144, "xs", 4, 0.3),
    ("training", "cifar10", 64, "s", 0.5, 0),
    ("training", "cifar10_half", 64, "xs", 0.5, 0),
    ("training", "cifar10_half", 64, "xs", 32, 0),
    ("training", "cifar10_half", 64, "s", 16, 0.1),
    ("training", "cifar10_half", 49, "xs", 8, 3),
    ("training", "cifar10_quarter", 64, "s", 4, 0),
    ("training", "cifar10_quarter", 64, "s", 4, 0.3),
    ("training", "cifar10_quarter", 144, "xs", 2, 0.1),
    ("training", "cifar10_eighth", 64, "xs", 1, 0),
    ("training", "cifar10_eighth", 64, "xs", 4, 0),
    ("training", "cifar10_eighth", 64, "xs", 32, 0),
    ("training", "cifar10_eighth", 49, "s", 2, 1),
    ("training", "cifar10_eighth", 144, "s", 2, 0),
    ("held-out", "cifar100_half", 64, "m", 0.75, 0),
    ("held-out", "cifar100_quarter", 64, "m", 3, 0),
    ("held-out", "cifar100_quarter", 64, "m", 3, 0.5),
    ("held-out", "cifar100_eighth", 64, "m", 12, 0),
    ("held-out", "cifar100_eighth", 49, "m", 6, 2),
    ("held-out", "cifar100_eighth", 144, "m", 3, 0.2),
    ("held-out", "cifar100_eighth", 196, "m", 1.5, 0),
    ("held-out", "ants_bees", 64, "m", 12, 0.5),
    ("held-out", "ants_bees", 144, "m", 6, 0),
    ("held-out", "ants_bees", 144, "m", 24, 0),
)
"""Split, data, patches, ViT, epochs, and the fixed cost of a step over its cost on all patches.

Of 0.1 on a CPU with small ViTs, and up to several times the rest on a fast GPU.
"""


class Task(NamedTuple):
    """A task of the set.

    Attributes:
        name: such as cifar10_quarter-64-s-4-time.
        split: whether agents may learn on it.
        data: name of the data set and the part of it.
        currency: what its budget is counted in.
        folder: of its images, within that of all data sets; None for the digits.
        values: arguments of the environment, without the folder.
    """

    name: str
    split: SplitOfTasks
    data: str
    currency: Currency
    folder: str | None
    values: dict[str, Any]

    def env(self, data_dir: Any, **values: Any) -> EnvConfig:
        """The arguments of its environment.

        Args:
            data_dir: the folder with the folders of the data sets.
            values: other arguments that do not belong to the task, such as the device.

        Raises:
            ArgumentError: without a folder for a task of images in one.
        """
        folder = None
        if self.folder is not None:
            if data_dir is None:
                raise ArgumentError(
                    "data_dir",
                    f"must be the folder that holds {self.folder}/ for the task {self.name}, got "
                    "None",
                )
            folder = str(Path(data_dir) / self.folder)
        return EnvConfig(**{**self.values, **values}, data_dir=folder)


def _task(
    split: SplitOfTasks, data: str, n_patches: int, vit: str, epochs: float, step_overhead: float
) -> Task:
    images = _DATA[data]
    currency: Currency = "time" if step_overhead else "flops"
    grid = _PHOTO_GRIDS if images.folder == "ants-bees" else _GRIDS
    return Task(
        f"{data}-{n_patches}-{vit}-{epochs:g}-{currency}",
        split,
        data,
        currency,
        images.folder,
        {
            "dataset": "digits" if images.folder is None else "folder",
            "train_fraction": images.train_fraction,
            "batch_size": images.batch_size,
            "epochs": epochs,
            "budget": "flops",
            "step_overhead": float(step_overhead),
            "optimizer": "adamw",
            "learning_rate": 2e-3,
            "weight_decay": 0.05,
            "schedule": "cosine",
            "warmup_epochs": epochs / 8,
            **grid[n_patches],
            **VITS[vit],
        },
    )


TASKS: dict[str, Task] = {task.name: task for task in (_task(*row) for row in _ROWS)}
"""Every task by its name."""


def tasks_named(names: tuple[str, ...]) -> list[Task]:
    """The tasks of these names, in the table's order.

    Args:
        names: of tasks, `training`, `held-out` or `all`.

    Raises:
        ArgumentError: naming what is none of these.
    """
    for name in names:
        if name not in {*TASKS, "training", "held-out", "all"}:
            raise ArgumentError(
                "tasks",
                f"must be training, held-out, all, or names of tasks such as {next(iter(TASKS))} "
                f"(docs/tasks.md has all), got {name!r}",
            )
    return [task for task in TASKS.values() if {task.name, task.split, "all"} & set(names)]
