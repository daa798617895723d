"""The tables of a report, as text in cells; templates and the console show them."""

import math
from collections.abc import Callable
from typing import NamedTuple

from vit_patch_env.experiments.compare.results import FULL
from vit_patch_env.experiments.report.measures import CONTROL, GROUPS, PAPER, Measures
from vit_patch_env.experiments.report.statistics import Estimate, difference, estimate, ratio

NOTHING = "-"
_BEST_RULE = (
    "The best fixed rule is the one with the highest mean test accuracy, of those with the most "
    "seeds: that it is picked by these figures favours it."
)


class Cell(NamedTuple):
    """Text, a note below it (an interval, what is missing), and one more: the paper's figure."""

    text: str
    note: str = ""
    aside: str = ""


class Row(NamedTuple):
    """A method's line."""

    title: str
    cells: list[Cell]
    method: str


class Block(NamedTuple):
    """Lines of a group of methods."""

    title: str
    rows: list[Row]


class Table(NamedTuple):
    """A table with its groups; the first column is that of the methods."""

    title: str
    caption: str
    columns: list[str]
    blocks: list[Block]


def table2(measures: Measures) -> Table:
    """The paper's Table 2, its own figures beside ours, and every other method below."""
    names = ("accuracy", "precision", "recall", "f1")

    def cells(method: str) -> list[Cell]:
        paper = PAPER.get(method)
        seconds = _cell(measures.estimate(method, "seconds"), _seconds)
        figures = [_cell(measures.estimate(method, name), _fraction) for name in names]
        if paper is not None:
            seconds = seconds._replace(aside=f"paper {_seconds(paper.seconds)}")
            figures = [
                cell._replace(aside=f"paper {_fraction(getattr(paper, name))}")
                for cell, name in zip(figures, names, strict=True)
            ]
        return [seeds_cell(measures, method), seconds, *figures]

    return _table(
        measures,
        "Table 2: time and quality",
        "Test images, all patches; precision, recall and F1 are macro averages. Training time is "
        "the ViT's and the agent's together, evaluation apart. Means over seeds, in brackets the "
        "95 % bootstrap interval; the paper's figures are from a Tesla K80.",
        ["Seeds", "Cumulative Training Time (s)", "Accuracy", "Precision", "Recall", "F1-Score"],
        cells,
    )


def cost_table(measures: Measures) -> Table:
    """What training cost, and the accuracy on the method's own patches."""
    full, by_epochs = measures.title(FULL), measures.comparison.budget == "epochs"
    unit, size = measures.flops_unit()

    def cells(method: str) -> list[Cell]:
        relative = measures.compare(method, FULL, "flops", ratio)
        return [
            _cell(measures.estimate(method, "own_accuracy"), _fraction),
            _cell(measures.estimate(method, "n_selected"), _one_decimal),
            *([] if by_epochs else [epochs_cell(measures, method)]),
            Cell(_or_nothing(measures.mean(method, "flops") / size, _three_digits)),
            Cell(_or_nothing(relative.mean, _percent)),
            Cell(_or_nothing(measures.mean(method, "agent_share") or math.nan, _share)),
            Cell(_or_nothing(measures.mean(method, "peak_memory") / 1e9, _two_decimals)),
        ]

    return _table(
        measures,
        "Cost",
        "Accuracy on the test images when the ViT sees only the patches that the method picks for "
        "them; of a schedule, random ones, as many as it kept on average. Patches per training "
        "step; rivals that merge or drop tokens behind the first layers begin with all. "
        f"{'' if by_epochs else 'Epochs are training images seen over those that there are. '}"
        f"Training FLOPs, in all and relative to {full}'s of the same seeds. The share of the "
        "training time that an agent or rule takes, with the loop around it. Peak memory of the "
        "training process.",
        [
            "Accuracy, own patches", "Patches", *([] if by_epochs else ["Epochs"]), f"{unit}s",
            f"FLOPs of {full}'s", "Time of agent or rule", "Memory (GB)",
        ],
        cells,
    )  # fmt: skip


def time_table(measures: Measures) -> Table:
    """Seconds, or FLOPs where they are the budget, to given validation accuracies."""
    levels, cost = measures.all_levels(), measures.followed
    form = _seconds if cost.measure == "seconds" else _three_digits

    def cells(method: str) -> list[Cell]:
        return [_reached_cell(measures.costs_to(method, level), form) for level in levels.values()]

    return _table(
        measures,
        f"{_capital(cost.units)} to a validation accuracy",
        f"Training {cost.name} at the end of the first epoch whose validation accuracy is at least "
        "so high, averaged over the seeds that reached it.",
        list(levels),
        cells,
    )


def paired_table(measures: Measures) -> Table | None:
    """Paired differences to all patches and to fixed rules; None without any of them.

    The rule is the one that picks as many random patches as the agent at each step, or, where the
    budget is not epochs, the best of them.
    """
    by_epochs = measures.comparison.budget == "epochs"
    rule = CONTROL if by_epochs else measures.best(measures.rules())
    references = [name for name in (FULL, rule) if name in measures.methods]
    if not references:
        return None
    costs = {cost.measure: cost.name for cost in reversed(measures.costs)}
    differing = ["Accuracy (points)", *(f"{_capital(name)} (ratio)" for name in costs.values())]
    titles = {name: measures.title(name) for name in references}
    if not by_epochs and rule is not None:
        titles[rule] = f"the best fixed rule, {measures.title(rule)}"
    columns = [f"{what}, against {title}" for title in titles.values() for what in differing]
    absent = [
        "a fixed rule" if name is None else measures.title(name)
        for name in (FULL, rule)
        if name not in references
    ]

    def cells(method: str) -> list[Cell]:
        found = []
        for reference in references:
            if method == reference:
                found += [Cell(NOTHING)] * (1 + len(costs))
                continue
            points = measures.compare(method, reference, "accuracy", difference)
            found.append(_told(points, 0, _points))
            for measure in costs:
                found.append(
                    _told(measures.compare(method, reference, measure, ratio), 1, _two_decimals)
                )
        return found

    chosen = "" if by_epochs or rule is None else f" {_BEST_RULE}"
    missing = f" There is no finished run of {absent[0]}." if absent else ""
    return _table(
        measures,
        "Paired differences",
        "Seed by seed, over the seeds that both methods have: difference of test accuracy on all "
        f"patches in percentage points, ratio of training {' and of '.join(costs.values())}; "
        "means, in brackets the 95 % bootstrap interval. Not told apart from 0 (a ratio: from 1) "
        f"is what has that in its interval.{chosen}{missing}",
        columns,
        cells,
    )


def readme_table(measures: Measures) -> Table:
    """All methods in one small table."""
    by_epochs = measures.comparison.budget == "epochs"
    rule = CONTROL if by_epochs else measures.best(measures.rules()) or FULL

    def cells(method: str) -> list[Cell]:
        gain = measures.compare(method, rule, "accuracy", difference)
        flops = Cell(_or_nothing(measures.compare(method, FULL, "flops", ratio).mean, _percent))
        return [
            seeds_cell(measures, method),
            Cell(_or_nothing(measures.mean(method, "seconds"), _seconds)),
            _cell(measures.estimate(method, "accuracy"), _fraction),
            Cell(_or_nothing(measures.mean(method, "f1"), _fraction)),
            flops if by_epochs else epochs_cell(measures, method),
            Cell(NOTHING) if method == rule else _told(gain, 0, _points),
        ]

    against = "the matched control" if by_epochs else measures.title(rule)
    columns = [
        "Seeds", "Time (s)", "Accuracy", "F1",
        f"FLOPs of {measures.title(FULL)}'s" if by_epochs else "Epochs",
        f"Accuracy against {against} (points)",
    ]  # fmt: skip
    return _table(measures, "", "", columns, cells)


def seeds_cell(measures: Measures, method: str) -> Cell:
    """How many seeds a method's figures are of, and what the others came to."""
    comparison = measures.comparison
    finished, sound = comparison.finished_runs(method), comparison.sound_runs(method)
    asked, diverged = len(comparison.seeds), len(finished) - len(sound)
    text = str(len(sound)) if len(sound) == asked else f"{len(sound)} of {asked}"
    return Cell(text, f"({diverged} diverged)" if diverged else "")


def epochs_cell(measures: Measures, method: str) -> Cell:
    """How often a method saw the training images, where that is not the budget."""
    return Cell(_or_nothing(measures.epochs_seen(method), _one_decimal))


def _reached_cell(costs: list[float], form: Callable[[float], str]) -> Cell:
    """Mean cost of the seeds that reached a level."""
    reached = [cost for cost in costs if math.isfinite(cost)]
    if not reached:
        return Cell("not reached" if costs else NOTHING)
    note = "" if len(reached) == len(costs) else f"({len(reached)} of {len(costs)} reached it)"
    return Cell(form(estimate(reached).mean), note)


def _table(
    measures: Measures,
    title: str,
    caption: str,
    columns: list[str],
    cells: Callable[[str], list[Cell]],
) -> Table:
    blocks = [
        Block(
            GROUPS[group],
            [Row(measures.title(method), cells(method), method) for method in methods],
        )
        for group, methods in measures.blocks().items()
    ]
    return Table(title, caption, columns, blocks)


def _cell(value: Estimate, form: Callable[[float], str]) -> Cell:
    """A mean with its interval."""
    return Cell(_or_nothing(value.mean, form), interval(value, form))


def _told(value: Estimate, nothing: float, form: Callable[[float], str]) -> Cell:
    """A difference with its interval, and whether that holds what no difference would be."""
    if value.n == 1:
        return Cell(form(value.mean), "(one seed)")
    untold = value.side(nothing) == 0
    same = form(value.low) == form(value.high) == form(nothing)
    aside = ("the same" if same else "not told apart") if untold else ""
    return Cell(_or_nothing(value.mean, form), interval(value, form), aside)


def interval(value: Estimate, form: Callable[[float], str]) -> str:
    """An interval in brackets; empty where there is none, or none that can be seen."""
    if value.n < 2 or form(value.low) == form(value.high) == form(value.mean):
        return ""
    return f"[{form(value.low)}, {form(value.high)}]"


def _or_nothing(value: float, form: Callable[[float], str]) -> str:
    return form(value) if math.isfinite(value) else NOTHING


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _fraction(value: float) -> str:
    return f"{value:.4f}"


def _one_decimal(value: float) -> str:
    return f"{value:.1f}"


def _two_decimals(value: float) -> str:
    return f"{value:.2f}"


def _three_digits(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _points(value: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * value:+.2f}"
