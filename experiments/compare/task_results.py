"""The results of a comparison of tasks, read from its folder and checked; nothing is trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_patch_env.agents import FixedRule
from vit_patch_env.checks import InputError
from vit_patch_env.experiments.agents_by_name.factory import agent_kind
from vit_patch_env.experiments.compare.methods import METHODS
from vit_patch_env.experiments.compare.results import COMPARE, Comparison, read_comparison
from vit_patch_env.experiments.run_folder.folder import check_holds
from vit_patch_env.experiments.run_folder.schemas import TASK_SET_FIELDS, read_checked
from vit_patch_env.experiments.task_set.table import TASKS

TASK_SET = "tasks.json"

Scores = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Test accuracies in [0, 1] by task, method and seed."""


@dataclass(frozen=True)
class TaskResults:
    """A comparison of tasks: what was requested, and the finished runs.

    Attributes:
        folder: with tasks.json and a folder for each task.
        content: content of tasks.json.
        comparisons: by the name of the task, in the order of the table.
        problems: a line for each excluded task or run.
    """

    folder: Path
    content: dict[str, Any]
    comparisons: dict[str, Comparison]
    problems: tuple[str, ...]

    def of_split(self, split: str) -> list[str]:
        """The tasks with results that are for training, or held out."""
        return [name for name in self.comparisons if TASKS[name].split == split]

    def scores(self, tasks: list[str]) -> Scores:
        """Accuracies on all test images and patches; those of diverged runs are left out."""
        return {
            task: {
                method: {
                    run.seed: run.test_metric("accuracy")
                    for run in self.comparisons[task].valid_runs(method)
                }
                for method in self.comparisons[task].methods
            }
            for task in tasks
        }

    @property
    def methods(self) -> list[str]:
        """Methods with a finished run on some task."""
        names = [name for one in self.comparisons.values() for name in one.methods]
        return list(dict.fromkeys(names))

    def _of_any(self, of: Callable[[Comparison], str], method: str) -> str:
        return next(of(one) for one in self.comparisons.values() if method in one.methods)

    def title(self, method: str) -> str:
        """A method's name in tables and plots."""
        return self._of_any(lambda one: one.title(method), method)

    def is_fixed(self, method: str) -> bool:
        """Whether a method is a fixed rule: it learns nothing, and trains the same ViT."""
        known = METHODS.get(method)
        return (
            known is not None
            and known.follows is None
            and known.model == "simple_vit"
            and agent_kind(known.agent).algorithm is FixedRule
        )

    def is_agent(self, method: str) -> bool:
        """Whether a method is an agent, of this package or the paper's."""
        group = self._of_any(lambda one: one.group(method), method)
        return group == "agent" or method.startswith("agentvit")


def read_task_set(folder: str | Path) -> TaskResults:
    """The comparison of tasks in a folder; tasks without a finished run are excluded.

    Raises:
        ValueError: if tasks.json is missing or damaged, names a task that does not exist, or a
            comparison is damaged or not of its task, or of another agent of the same name.
    """
    folder = Path(folder)
    check_holds(folder, TASK_SET, "folder", "a folder that vit-patch compare --tasks wrote")
    content = read_checked(folder / TASK_SET, TASK_SET_FIELDS)
    unknown = [name for name in content["tasks"] if name not in TASKS]
    if unknown:
        raise InputError(
            f"{folder}: damaged: expected names of tasks in {TASK_SET}, got {unknown[0]!r}"
        )
    comparisons: dict[str, Comparison] = {}
    problems: list[str] = []
    for name in TASKS:
        path = folder / name
        if name not in content["tasks"] or not (path / COMPARE).exists():
            continue
        comparison = read_comparison(path, with_steps=False)
        _check_task(comparison, name)
        problems += comparison.problems
        if comparison.runs:
            comparisons[name] = comparison
        else:
            problems.append(f"{path}: no finished run")
    _check_agents(comparisons)
    return TaskResults(folder, content, comparisons, tuple(problems))


def _check_agents(comparisons: Mapping[str, Comparison]) -> None:
    """Refuse agents in files that have one name and are not the same on all tasks."""
    found: dict[str, tuple[str, Comparison]] = {}
    for comparison in comparisons.values():
        for key, agent in comparison.content.get("agents", {}).items():
            checksum, first = found.setdefault(key, (agent["sha256"], comparison))
            if agent["sha256"] != checksum:
                raise InputError(
                    f"{comparison.folder}: expected the agent {key} of {first.folder}, got another "
                    "one of this name"
                )


def _check_task(comparison: Comparison, name: str) -> None:
    """Refuse a comparison of other data, another ViT or another budget than its folder says."""
    for key, value in TASKS[name].values.items():
        found = comparison.env[key]
        if found != value:
            raise InputError(
                f"{comparison.folder}: another task: {key} is {found}, expected {value}"
            )
