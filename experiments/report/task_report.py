"""`vit-patch report` of a comparison of tasks: regret to the best fixed rule of each task."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from vit_patch_env.checks import InputError, counted
from vit_patch_env.experiments.compare.results import FULL
from vit_patch_env.experiments.compare.task_results import TaskResults, read_task_set
from vit_patch_env.experiments.report.cells import (
    EMPTY,
    Block,
    Cell,
    Row,
    Table,
    lost,
    mean_cell,
    number_cell,
    percent,
    points,
    small_percent,
)
from vit_patch_env.experiments.report.regret import paired_differences
from vit_patch_env.experiments.report.settings import sources
from vit_patch_env.experiments.report.task_metrics import TaskMetrics
from vit_patch_env.experiments.report.task_plots import make_task_plots
from vit_patch_env.experiments.report.words import command_lines, unique
from vit_patch_env.experiments.task_set.table import SplitOfTasks

_SPLITS: dict[SplitOfTasks, str] = {"training": "Training tasks", "held-out": "Held-out tasks"}


def task_content(folder: Path) -> dict[str, Any]:
    """The values of the report's templates.

    Raises:
        ValueError: for a folder that is damaged or has no finished run.
    """
    results = read_task_set(folder)
    if not results.comparisons:
        problems = "".join(f"; {problem}" for problem in results.problems)
        raise InputError(f"expected at least one finished run in {folder}, got none{problems}")
    training = TaskMetrics(results, "training")
    held_out = TaskMetrics(results, "held-out", training.single)
    splits = [one for one in (held_out, training) if one.tasks]
    tables = [table for one in splits for table in (_summary(one), _by_task(one))]
    return {
        "title": "Comparison of tasks",
        "findings": [line for one in splits for line in _findings(one)],
        "against_paper": [],
        "settings": _settings(results),
        "sources": sources(next(iter(results.comparisons.values()))),
        "warnings": [*results.problems, *_warnings(splits)],
        "command": command_lines(results.content.get("command", "")),
        "wide": 3,
        "tables": tables,
        "plots": make_task_plots([(_SPLITS[one.split], one) for one in splits]),
    }


def _findings(metrics: TaskMetrics) -> list[str]:
    """What the results say, in sentences."""
    results, title = metrics.results, _SPLITS[metrics.split]
    lines = []
    if metrics.single is not None and metrics.single in metrics.order():
        name = results.title(metrics.single)
        chosen = "chosen on the training tasks"
        if metrics.split == "training":
            some = len(metrics.best) < len(metrics.tasks)
            chosen = (
                f"chosen on the {len(metrics.best)} with several rules"
                if some
                else "chosen on them"
            )
        lines.append(
            f"{title} ({len(metrics.tasks)}): the best single fixed rule, {chosen}, is "
            f"{name}{_loss(metrics, metrics.single)}."
        )
    for method in metrics.order():
        if not results.is_agent(method) or metrics.single is None:
            continue
        differences = paired_differences(metrics.scores, method, metrics.single)
        if not differences:  # no seed in common
            continue
        gain = metrics.against(method, metrics.single)
        worst = min((float(np.mean(one)), task) for task, one in differences.items())
        bounds = "" if gain.n < 2 else f" [{points(gain.low)}, {points(gain.high)}]"
        lines.append(
            f"{title}: {results.title(method)} against it {points(gain.mean)}{bounds} points over "
            f"{counted(gain.n, 'task')}; at worst {points(worst[0])}, on {worst[1]}."
        )
    return lines


def _loss(metrics: TaskMetrics, method: str) -> str:
    """What a method loses to the best rules, as the end of a sentence; empty if not known."""
    if not metrics.regrets[method]:
        return ""
    n_tasks, mean = len(metrics.regrets[method]), 100 * metrics.regret(method).mean
    where = ""
    if n_tasks < len(metrics.tasks):
        where = f", on {counted(n_tasks, 'task')} that it and others were run on"
    return f"; it loses {mean:z.2f} points to the best fixed rule of each task{where}"


def _summary(metrics: TaskMetrics) -> Table:
    """Mean regret of each method."""
    rows = []
    for method in metrics.order():
        losses = list(metrics.regrets[method].values())
        single = metrics.single
        gain = Cell(EMPTY)
        if single is not None and method != single:
            gain = mean_cell(metrics.against(method, single), points)
        n_tasks = len(losses) or math.nan
        within = [sum(loss <= limit for loss in losses) / n_tasks for limit in (0.01, 0.03)]
        cells = [
            mean_cell(metrics.regret(method), lost),
            gain,
            number_cell(max(losses, default=math.nan), lost),
            *(number_cell(share, percent) for share in within),
            Cell(str(len(losses))),
        ]
        rows.append(Row(metrics.results.title(method), cells, method))
    title = _SPLITS[metrics.split]
    against = ""
    if metrics.single is not None:
        name = metrics.results.title(metrics.single)
        against = f" Against the best single rule, {name}: paired differences."
    return Table(
        f"{title}: regret",
        "Regret: percentage points of test accuracy lost to the best fixed rule of each task, "
        "which is found among all fixed rules of this table (and so is slightly too good, as the "
        "best of many noisy means), where two or more of them were run. Intervals: 95 %, bootstrap "
        f"of tasks and of seeds within them.{against}",
        ["Regret", "Against the best single rule", "Largest regret", "Within 1 point",
         "Within 3 points", "Tasks"],
        _blocks(metrics, rows),
    )  # fmt: skip


def _blocks(metrics: TaskMetrics, rows: list[Row]) -> list[Block]:
    """Rows of methods by what the methods are."""
    results = metrics.results
    kinds: dict[str, list[Row]] = {"Agents": [], "Fixed rules": [], "Others": []}
    for row in rows:
        is_rule = results.is_fixed(row.method)
        kind = "Agents" if results.is_agent(row.method) else "Fixed rules" if is_rule else "Others"
        kinds[kind].append(row)
    return [Block(title, of_kind) for title, of_kind in kinds.items() if of_kind]


def _by_task(metrics: TaskMetrics) -> Table:
    """Accuracies of the best rule, the best single one, all patches and agents by task."""
    results = metrics.results
    shown = [metrics.single] if metrics.single is not None else []
    shown += [name for name in (FULL,) if name in metrics.methods and name not in shown]
    shown += [name for name in metrics.order() if results.is_agent(name)]
    rows = []
    for task in metrics.tasks:
        accuracies = {
            name: float(np.mean(list(runs.values())))
            for name, runs in metrics.scores[task].items()
            if runs
        }
        best = metrics.best.get(task)
        cells = [Cell(EMPTY) if best is None else Cell(
            small_percent(best.accuracy), remark=results.title(best.method)
        )]  # fmt: skip
        cells += [
            Cell(small_percent(accuracies[name]) if name in accuracies else EMPTY) for name in shown
        ]
        rows.append(Row(task, cells, task))
    return Table(
        f"{_SPLITS[metrics.split]}: accuracies",
        "Test accuracy on all patches, means over seeds.",
        ["Best fixed rule", *(results.title(name) for name in shown)],
        [Block(_SPLITS[metrics.split], rows)],
    )


def _settings(results: TaskResults) -> dict[str, str]:
    """Names and values of the settings."""
    runs = [run for one in results.comparisons.values() for run in one.runs.values()]
    return {
        name: value
        for name, value in {
            "Tasks": str(len(results.comparisons)),
            "Runs": f"{len(runs):,}",
            "Machine": "; ".join(unique(run.result["machine"] for run in runs)),
            "Precision": ", ".join(unique(run.result["precision"] for run in runs)),
        }.items()
        if value
    }


def _warnings(splits: list[TaskMetrics]) -> list[str]:
    """What a reader should know of the runs that are missing."""
    lines = []
    if any(one.single is None for one in splits):
        lines.append(
            "No best single fixed rule: none has a finished run on every training task that two "
            "or more rules were run on, on which it is chosen."
        )
    for one in splits:
        unfinished = sum(len(one.results.comparisons[task].unfinished) for task in one.tasks)
        if unfinished:
            lines.append(f"{_SPLITS[one.split]}: {counted(unfinished, 'run')} not finished.")
        n_seeds = {len(runs) for task in one.tasks for runs in one.scores[task].values()}
        if min(n_seeds) < 2:
            lines.append(
                f"{_SPLITS[one.split]}: some methods have one seed per task: differences of a "
                "few points on one task mean little."
            )
    return lines
