"""The figures of the test images on a terminal of 80 columns, whatever the number of classes."""

import math
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from vit_patch_env.checks import counted
from vit_patch_env.experiments.figures.numbers import Evaluations
from vit_patch_env.experiments.process.output import TextTable, print_line, print_table
from vit_patch_env.system.shown import escaped
from vit_patch_env.training.predictions import (
    N_BINS,
    calibration_error,
    class_figures,
    confusions,
    top_accuracy,
)

_LONGEST_CLASS = 20
"""Characters of the longest name of a class in a table."""

_N_WORST = _N_BEST = 5
"""Classes that are shown where there are more than both together."""

_N_PAIRS = 5
"""Pairs of classes that are confused."""


def show_figures(
    tested: Evaluations, classes: Sequence[str], console: Console, *, all_classes: bool = False
) -> None:
    """Print calibration error, top-5 accuracy, the classes and which of them are confused.

    Args:
        tested: the predictions.
        classes: names of the classes.
        console: to print to.
        all_classes: print all of them, in their order, not the worst and the best by F1.
    """
    both = tested.all_patches.predictions, tested.agent_patches.predictions
    _show_pair(
        f"Calibration error ({N_BINS} bins)", [calibration_error(one) for one in both], console
    )
    top = [top_accuracy(one) for one in both]
    if top[0] is not None:
        _show_pair("Top-5 accuracy", [math.nan if one is None else one for one in top], console)
    _show_classes(tested, classes, console, all_classes=all_classes)
    _show_confusions(tested, classes, console)


def _show_pair(name: str, values: Sequence[float], console: Console) -> None:
    of_all, of_agent = map(_percent, values)
    print_line(f"{name}: {of_all} on all patches, {of_agent} on the agent's", console)


def _show_classes(
    tested: Evaluations, classes: Sequence[str], console: Console, *, all_classes: bool
) -> None:
    on_all = class_figures(tested.all_patches.predictions)
    on_own = class_figures(tested.agent_patches.predictions)
    shown = np.arange(len(classes))
    n_shown = _N_WORST + _N_BEST
    selects = not all_classes and len(classes) > n_shown
    title = "Classes"
    if selects:
        order = np.argsort(on_all.f1, kind="stable")  # those without images come last
        order = order[on_all.n_items[order] > 0]
        shown = np.concatenate([order[:_N_WORST], order[_N_WORST:][-_N_BEST:]])
        title = (
            f"The {_N_WORST} worst and the {_N_BEST} best of {counted(len(classes), 'class')} by F1"
        )
    heads = ["Images", "Precision", "Recall", "F1", "F1 (agent)"]
    table = TextTable(title, ["Class"], heads)
    for row, label in enumerate(shown.tolist()):
        table.add_row(
            escaped(classes[label], _LONGEST_CLASS),
            f"{on_all.n_items[label]:,}",
            *(_percent(column[label]) for column in (on_all.precision, on_all.recall, on_all.f1)),
            _percent(on_own.f1[label]),
        )
        if selects and row == _N_WORST - 1:
            table.end_section()
    print_table(table, console)
    if selects:
        print_line("All of them: vit-patch evaluate with --all-classes", console)


def _show_confusions(tested: Evaluations, classes: Sequence[str], console: Console) -> None:
    found = tested.all_patches.predictions
    pairs = confusions(found)
    if not pairs:
        print_line("No mistakes on all patches", console)
        return
    n_items = class_figures(found).n_items
    table = TextTable(
        "Most frequent mistakes, on all patches",
        ["Class", "Predicted as"],
        ["Images", "Of the class"],
    )
    for pair in pairs[:_N_PAIRS]:
        names = (escaped(classes[label], _LONGEST_CLASS) for label in (pair.label, pair.predicted))
        share = pair.n_items / n_items[pair.label]
        table.add_row(*names, f"{pair.n_items:,}", _percent(share))
    print_table(table, console)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.2%}"
