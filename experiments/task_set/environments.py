"""The environments of tasks on this machine, from the options of a command."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vit_patch_env.checks import ArgumentError, named
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.task_set.table import Task, tasks_named

_OF_MACHINE = ("data_dir", "device", "precision", "images")
"""Arguments of the environment that are not a task's."""

OF_REWARD = ("reward", "reward_every", "reward_images", "alpha")
"""Arguments of the environment that determine an agent's reward, which are not a task's either."""


def check_not_of_tasks(
    env: EnvConfig, default: EnvConfig, given: Collection[str], allowed: Collection[str] = ()
) -> None:
    """Refuse arguments of the environment that the tasks set.

    Args:
        env: options of the command.
        default: those that are used if none is given.
        given: names of the options that were typed.
        allowed: names of others that the tasks do not set.

    Raises:
        ArgumentError: naming the first one that was given, or is not the default.
    """
    values = asdict(default)
    for name, value in asdict(env).items():
        if name not in (*_OF_MACHINE, *allowed) and (name in given or value != values[name]):
            raise ArgumentError(name, f"is set by {named('tasks')}, got {value}")


def env_of_task(task: Task, given: EnvConfig, **values: Any) -> EnvConfig:
    """The arguments of a task's environment.

    Args:
        task: of the set.
        given: options of the command, of which those of the machine count.
        values: other arguments that do not belong to the task.

    Raises:
        ArgumentError: if the folder of the data sets does not hold the task's.
    """
    of_machine = {name: getattr(given, name) for name in _OF_MACHINE}
    env = task.env(**of_machine, **values)
    if env.data_dir is not None and not Path(env.data_dir).is_dir():
        raise ArgumentError(
            "data_dir",
            f"must hold {task.folder}/, the images of the task {task.name}, got {given.data_dir}",
        )
    return env


def envs_to_learn_on(
    names: tuple[str, ...], given: EnvConfig, **values: Any
) -> dict[str, EnvConfig]:
    """The arguments of the environments of tasks that agents may learn on, by the tasks' names.

    Args:
        names: of tasks, or `training`.
        given: options of the command, of which those of the machine count.
        values: other arguments that do not belong to the tasks.

    Raises:
        ArgumentError: for an unknown task or one that is held out, or if the folder of the data
            sets does not hold its images.
    """
    tasks = tasks_named(names)
    for task in tasks:
        if task.split != "training":
            raise ArgumentError(
                "tasks", f"must be for training, got {task.name}, which is held out"
            )
    return {task.name: env_of_task(task, given, **values) for task in tasks}
