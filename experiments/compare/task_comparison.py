"""`vit-patch compare --tasks`: a comparison for each task of the set, whose runs share the jobs."""

import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from vit_patch_env.checks import ArgumentError, InputError, counted, named
from vit_patch_env.experiments.cluster.executor import make_executor
from vit_patch_env.experiments.compare.agent_methods import agents_of, find_methods, with_copies
from vit_patch_env.experiments.compare.comparison import Comparison, train_all
from vit_patch_env.experiments.compare.configuration import check_methods
from vit_patch_env.experiments.compare.methods import FAMILY, METHODS
from vit_patch_env.experiments.compare.presets import PRESETS
from vit_patch_env.experiments.compare.results import COMPARE, FULL
from vit_patch_env.experiments.compare.task_results import TASK_SET
from vit_patch_env.experiments.options.commands import CompareOptions
from vit_patch_env.experiments.process.executor import Executor
from vit_patch_env.experiments.process.messages import error_message, say
from vit_patch_env.experiments.process.output import print_lines
from vit_patch_env.experiments.run_folder.folder import (
    check_possible,
    lock_folder,
    provenance,
    write_json,
)
from vit_patch_env.experiments.run_folder.schemas import TASK_SET_FIELDS, read_checked
from vit_patch_env.experiments.task_set.environments import check_not_of_tasks, env_of_task
from vit_patch_env.experiments.task_set.table import Task, tasks_named


class TaskComparison:
    """Comparisons of the same methods and seeds on several tasks, each in a folder of its name.

    Args:
        options: what to compare, with tasks.
        console: where progress is shown.
    """

    tasks: list[Task]
    comparisons: list[Comparison]
    executor: Executor
    lock: FileLock

    def __init__(self, options: CompareOptions, console: Console) -> None:
        self.console = console
        of_smoke = "methods" not in options.given and options.methods == PRESETS["smoke"].methods
        methods = (FULL, *FAMILY) if of_smoke else options.methods
        self.options = replace(options, methods=methods)
        self.path = Path(options.out or Path("results") / "tasks")
        self.comparisons = []

    def prepare(self) -> None:
        """Check the options and the folders, of the comparison and of the images.

        Raises:
            ValueError: for bad options, missing images, or a folder that holds something else.
        """
        options = self.options
        self.tasks = tasks_named(options.tasks)
        check_methods(options, "flops")
        if options.preset != "smoke":
            raise ArgumentError("preset", f"is not for {named('tasks')}, got {options.preset}")
        check_not_of_tasks(options.env, PRESETS["smoke"].env, options.given)
        check_possible(self.path, "out")
        if (self.path / COMPARE).exists():
            raise ArgumentError(
                "out", f"must be a folder without another comparison, got {self.path}"
            )
        for task in self.tasks:
            env_of_task(task, options.env)
        with ExitStack() as undo:
            self.executor = make_executor(options, str(options.env.device))
            undo.callback(self.executor.close)
            self.lock = lock_folder(self.path, "out")
            undo.callback(self.lock.release)
            if (self.path / TASK_SET).exists():
                read_checked(self.path / TASK_SET, TASK_SET_FIELDS)
            self._keep_agents()
            self._write()
            for place, task in enumerate(self.tasks, start=1):
                self._prepare(task, place)
            undo.pop_all()

    def _keep_agents(self) -> None:
        """Copy agents' files once, so that all tasks have the same agents."""
        methods = find_methods(self.options.methods)
        kept = with_copies(methods, agents_of(methods), self.path)
        given = (key if key in METHODS else method.agent for key, method in kept.items())
        self.options = replace(self.options, methods=tuple(given))

    def run(self) -> None:
        """Train the runs of the tasks that are not finished; exits with status 1 if one failed."""
        try:
            train_all(self.comparisons, self.executor, self.console)
        finally:
            self.lock.release()
        failed = len(self.tasks) - len(self.comparisons)  # those that could not be prepared
        failed += sum(one.has_failed for one in self.comparisons)
        if failed:
            self._say(f"Runs of {counted(failed, 'task')} failed; the same command tries again.")
            sys.exit(1)
        self._say(
            f"{counted(len(self.tasks), 'task')} done in {self.path}. Write a report with",
            f"  vit-patch report {shlex.quote(str(self.path))}",
        )

    def _prepare(self, task: Task, place: int) -> None:
        """Prepare a task's comparison, unless its folder or images do not allow that."""
        self._say(f"Task {place} of {len(self.tasks)}: {task.name}")
        comparison = Comparison(self._options(task), self.console, task.name, self.executor)
        try:
            comparison.prepare()
        except InputError as error:  # the other tasks go on
            say(error_message(error))
        else:
            self.comparisons.append(comparison)

    def _options(self, task: Task) -> CompareOptions:
        """The options of a task's comparison."""
        env = env_of_task(task, self.options.env)
        storage = self.options.storage and f"{self.options.storage.rstrip('/')}/{task.name}"
        return replace(
            self.options, tasks=(), env=env, out=str(self.path / task.name), preset="smoke",
            storage=storage,
        )  # fmt: skip

    def _write(self) -> None:
        """Write tasks.json."""
        self.path.mkdir(parents=True, exist_ok=True)
        names = {path.parent.name for path in self.path.glob(f"*/{COMPARE}")}
        names |= {task.name for task in self.tasks}
        content = {"tasks": sorted(names), **provenance()}
        write_json(self.path / TASK_SET, content)

    def _say(self, *lines: str) -> None:
        print_lines(lines, self.console)


def make_comparison(options: CompareOptions, console: Console) -> Comparison | TaskComparison:
    """What `vit-patch compare` runs with these options."""
    if options.tasks:
        return TaskComparison(options, console)
    if options.out is not None and (Path(options.out) / TASK_SET).exists():
        raise InputError(
            f"{named('out')} must be a folder without another comparison, got {options.out}, a "
            f"comparison of tasks: add {named('tasks')}"
        )
    return Comparison(options, console)
