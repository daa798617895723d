"""The tables of a report; templates and the console show them."""

import math
from collections.abc import Callable

from vit_patch_env.checks import counted
from vit_patch_env.experiments.compare.results import FULL
from vit_patch_env.experiments.report import cells as form
from vit_patch_env.experiments.report.cells import EMPTY, Block, Cell, Row, Table
from vit_patch_env.experiments.report.metrics import CONTROL, GROUPS, ComparisonMetrics, Cost
from vit_patch_env.experiments.report.paper import TABLE2
from vit_patch_env.experiments.report.statistics import difference, estimate, ratio

_BEST_RULE = (
    "The best fixed rule is the one with the highest mean test accuracy, of those with the most "
    "seeds; selecting it by these results biases the comparison in its favour."
)


def table2(metrics: ComparisonMetrics) -> Table:
    """The paper's Table 2 with the paper's values below ours, and all other methods."""
    names = ("accuracy", "precision", "recall", "f1")

    def cells(method: str) -> list[Cell]:
        paper = TABLE2.get(method)
        seconds = time_cell(metrics, method)
        quality = [form.mean_cell(metrics.estimate(method, name), form.fraction) for name in names]
        if paper is not None:
            papers = f"paper {form.seconds(paper.seconds)}"
            seconds = seconds._replace(remark="; ".join(filter(None, [seconds.remark, papers])))
            quality = [
                cell._replace(remark=f"paper {form.fraction(getattr(paper, name))}")
                for cell, name in zip(quality, names, strict=True)
            ]
        return [seeds_cell(metrics, method), seconds, *quality]

    return _table(
        metrics,
        "Table 2: training time and test metrics",
        "Test metrics on all patches; precision, recall and F1 are macro averages. Training time "
        "is that of the ViT and the agent, without evaluation and without disturbed runs. Means "
        "over seeds with the 95 % bootstrap interval in brackets; the paper's training times are "
        "from a Tesla K80.",
        ["Seeds", "Training time (s)", "Accuracy", "Precision", "Recall", "F1"],
        cells,
    )


def cost_table(metrics: ComparisonMetrics) -> Table:
    """What training cost, and the accuracy on the patches that a method picks at its end."""
    full, by_epochs = metrics.title(FULL), metrics.comparison.budget == "epochs"
    unit, size = metrics.flops_unit()

    def cells(method: str) -> list[Cell]:
        relative = metrics.compare(method, FULL, "flops", ratio)
        agent_share = metrics.mean(method, "agent_share") or math.nan
        return [
            time_cell(metrics, method),
            form.mean_cell(metrics.estimate(method, "n_selected"), form.one_decimal),
            *([] if by_epochs else [epochs_cell(metrics, method)]),
            form.number_cell(metrics.mean(method, "flops") / size, form.three_digits),
            form.number_cell(relative.mean, form.percent),
            form.number_cell(agent_share, form.small_percent),
            form.number_cell(metrics.mean(method, "peak_memory") / 1e9, form.two_decimals),
            own_cell(metrics, method),
        ]

    return _table(
        metrics,
        "Cost",
        "Training time: of the ViT and the agent, without evaluation and without disturbed runs. "
        "Patches: mean per training step; baselines that merge or drop tokens after the first "
        "layers start with all patches. "
        f"{'' if by_epochs else 'Epochs: passes over the training images. '}"
        f"Training FLOPs: in total, and relative to {full} with the same seeds. Time of agent or "
        "rule: share of the training time, with the loop around it. Memory: peak of the training "
        "process. Accuracy on own patches: test accuracy when the ViT sees only the patches that "
        "the agent, rule or schedule picks for the test images as at the end of its run; below it, "
        "how many those are. A method whose model drops patches or tokens by itself, or that ends "
        "with all patches, has its accuracy on all patches." + _older_own(metrics),
        [
            "Training time (s)", "Patches", *([] if by_epochs else ["Epochs"]), f"{unit}s",
            f"FLOPs relative to {full}", "Time of agent or rule", "Memory (GB)",
            "Accuracy on own patches",
        ],
        cells,
    )  # fmt: skip


def time_table(metrics: ComparisonMetrics, cost: Cost) -> Table:
    """Seconds or FLOPs to given validation accuracies."""
    levels = metrics.all_levels()
    shown = form.seconds if cost.metric == "seconds" else form.three_digits

    def cells(method: str) -> list[Cell]:
        return [
            form.reached_cell(metrics.costs_to(method, level, cost), shown)
            for level in levels.values()
        ]

    return _table(
        metrics,
        f"{_capital(cost.units)} to a validation accuracy",
        f"Training {cost.name} up to the end of the first epoch with at least this validation "
        "accuracy; means over the seeds that reached it"
        + (", without disturbed runs." if cost.metric == "seconds" else "."),
        list(levels),
        cells,
    )


def paired_table(metrics: ComparisonMetrics) -> Table | None:
    """Paired differences to all patches and to a fixed rule; None without either of them.

    The rule is the control with as many random patches as the agent at each step, or, where the
    budget is not epochs, the best fixed rule.
    """
    by_epochs = metrics.comparison.budget == "epochs"
    rule = CONTROL if by_epochs else metrics.best(metrics.rules())
    references = [name for name in (FULL, rule) if name in metrics.methods]
    if not references:
        return None
    costs = {cost.metric: cost.name for cost in reversed(metrics.costs)}
    quantities = ["Accuracy (points)", *(f"{_capital(name)} (ratio)" for name in costs.values())]
    titles = {name: metrics.title(name) for name in references}
    if not by_epochs and rule is not None:
        titles[rule] = f"the best fixed rule, {metrics.title(rule)}"
    columns = [f"{quantity}, vs. {title}" for title in titles.values() for quantity in quantities]
    absent = [
        "a fixed rule" if name is None else metrics.title(name)
        for name in (FULL, rule)
        if name not in references
    ]

    def cells(method: str) -> list[Cell]:
        row = []
        for reference in references:
            if method == reference:
                row += [Cell(EMPTY)] * (1 + len(costs))
                continue
            accuracy = metrics.compare(method, reference, "accuracy", difference)
            row.append(form.paired_cell(accuracy, 0, form.points))
            for metric in costs:
                cost = metrics.compare(method, reference, metric, ratio)
                row.append(form.paired_cell(cost, 1, form.two_decimals))
        return row

    chosen = "" if by_epochs or rule is None else f" {_BEST_RULE}"
    missing = f" There is no finished run of {absent[0]}." if absent else ""
    return _table(
        metrics,
        "Paired differences",
        "Over the seeds that both methods have: difference of test accuracy on all patches in "
        f"percentage points, ratio of training {' and of '.join(costs.values())}; "
        f"{'times without disturbed runs; ' * ('seconds' in costs)}means with the "
        "95 % bootstrap interval in brackets. Not significant: the interval contains 0 (of a "
        f"ratio: 1).{chosen}{missing}",
        columns,
        cells,
    )


def readme_table(metrics: ComparisonMetrics) -> Table:
    """All methods in one small table."""
    by_epochs = metrics.comparison.budget == "epochs"
    rule = CONTROL if by_epochs else metrics.best(metrics.rules()) or FULL

    def cells(method: str) -> list[Cell]:
        gain = metrics.compare(method, rule, "accuracy", difference)
        flops = metrics.compare(method, FULL, "flops", ratio)
        return [
            seeds_cell(metrics, method),
            time_cell(metrics, method)._replace(note=""),
            form.mean_cell(metrics.estimate(method, "accuracy"), form.fraction),
            form.number_cell(metrics.mean(method, "f1"), form.fraction),
            form.number_cell(flops.mean, form.percent)
            if by_epochs
            else epochs_cell(metrics, method),
            Cell(EMPTY) if method == rule else form.paired_cell(gain, 0, form.points),
        ]

    reference = "the matched control" if by_epochs else metrics.title(rule)
    columns = [
        "Seeds", "Time (s)", "Accuracy", "F1",
        f"FLOPs relative to {metrics.title(FULL)}" if by_epochs else "Epochs",
        f"Accuracy vs. {reference} (points)",
    ]  # fmt: skip
    return _table(metrics, "", "", columns, cells)


def seeds_cell(metrics: ComparisonMetrics, method: str) -> Cell:
    """Number of seeds in a method's means, and of those that diverged."""
    comparison = metrics.comparison
    finished, valid = comparison.finished_runs(method), comparison.valid_runs(method)
    requested, diverged = len(comparison.seeds), len(finished) - len(valid)
    text = str(len(valid)) if len(valid) == requested else f"{len(valid)} of {requested}"
    return Cell(text, f"({diverged} diverged)" if diverged else "")


def time_cell(metrics: ComparisonMetrics, method: str) -> Cell:
    """Training time of the undisturbed runs; of the others, so marked, if there are none."""
    n_disturbed = metrics.n_disturbed(method)
    runs = metrics.comparison.valid_runs(method)
    if n_disturbed and n_disturbed == len(runs):
        of_all = estimate(run.seconds for run in runs)
        return form.mean_cell(of_all, form.seconds)._replace(remark="disturbed")
    cell = form.mean_cell(metrics.estimate(method, "seconds"), form.seconds)
    return cell._replace(remark=f"without {n_disturbed} disturbed" if n_disturbed else "")


def own_cell(metrics: ComparisonMetrics, method: str) -> Cell:
    """Accuracy on the patches picked at the end of a run, and how many those are."""
    cell = form.mean_cell(metrics.estimate(method, "own_accuracy"), form.fraction)
    n_patches = metrics.mean(method, "own_patches")
    if cell.text == EMPTY:
        return cell._replace(remark="not recorded" if metrics.comparison.valid_runs(method) else "")
    return cell._replace(remark=f"on {n_patches:.3g} patches") if math.isfinite(n_patches) else cell


def _older_own(metrics: ComparisonMetrics) -> str:
    """What runs of older versions do not have."""
    runs = [run for name in metrics.methods for run in metrics.comparison.valid_runs(name)]
    n_older = sum(math.isnan(run.n_patches_on_test) for run in runs)
    if not n_older:
        return ""
    return (
        f" {n_older} of {counted(len(runs), 'run')} are of an older version, which did not record "
        "how many these are, and evaluated schedules on their mean number: the accuracy of a "
        "schedule that ends with all patches is that on all patches, that of another one is not "
        "known."
    )


def epochs_cell(metrics: ComparisonMetrics, method: str) -> Cell:
    """Passes over the training images, where they are not the budget."""
    return form.number_cell(metrics.n_epochs(method), form.one_decimal)


def _table(
    metrics: ComparisonMetrics,
    title: str,
    caption: str,
    columns: list[str],
    cells: Callable[[str], list[Cell]],
) -> Table:
    blocks = [
        Block(
            GROUPS[group],
            [Row(metrics.title(method), cells(method), method) for method in methods],
        )
        for group, methods in metrics.blocks().items()
    ]
    return Table(title, caption, columns, blocks)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
