"""The plan in a terminal: tables, and the assumptions below them."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console

from vit_patch_env.checks import counted
from vit_patch_env.experiments.process.output import TextTable, print_line, print_table
from vit_patch_env.patches.grid import size_text

_HEADS = {
    "all_patches": "all patches", "equal_flops": "equal FLOPs", "equal_time": "equal time",
    "equal_steps": "equal steps",
}  # fmt: skip
"""The runs, by their names in JSON."""

_PARTS = {
    "weights": "weights", "gradients": "gradients", "optimizer": "optimizer",
    "average": "average of the weights", "activations": "activations", "images": "images",
    "total": "together",
}  # fmt: skip


def show_plan(plan: dict[str, Any], console: Console) -> None:
    """Print a plan, as `Planning.run` returns it."""
    print_line(_training(plan), console)
    print_table(_runs(plan), console)
    for line in _schedules(plan):
        print_line(line, console)
    print_table(_memory(plan), console)
    for line in _fits(plan):
        print_line(line, console)
    print_line("Assumptions:", console)
    for line in assumptions(plan):
        print_line(f"- {line}", console)


def _training(plan: dict[str, Any]) -> str:
    device = plan["device"]
    several = f"{device['n_devices']} x " if device["n_devices"] > 1 else ""
    return (
        f"{plan['model']}, {plan['n_parameters'] / 1e6:.1f} M parameters, "
        f"{counted(plan['images'], 'image')} of {size_text(plan['image_size'])} "
        f"({counted(plan['n_patches'], 'patch')}), {counted(plan['epochs'], 'epoch')}, batches of "
        f"{plan['batch_size']:,}, on {several}{device['title']}, {device['precision']}"
    )


def _runs(plan: dict[str, Any]) -> TextTable:
    """The runs, one in each column."""
    runs = plan["runs"]
    schedule = f"--agent {plan['agent']}"
    heads = [_HEADS[name] for name in runs]
    table = TextTable(f"A run on all patches, and on those of {schedule}", [""], heads)

    def row(title: str, name: str, text: Any, compared: bool = False) -> None:
        cells = []
        for one in runs.values():
            cell = text(one[name])
            if compared and one is not runs["all_patches"]:
                cell += f" ({one['of_all_patches'][name]:.2f} x)"
            cells.append(cell)
        table.add_row(title, *cells)

    row("steps", "steps", lambda value: f"{value:,}", compared=True)
    row("epochs", "epochs", lambda value: f"{value:,.1f}")
    row("patches per step", "patches", lambda value: f"{value:.1f}")
    row("FLOPs", "flops", lambda value: f"{value:.3g}", compared=True)
    row("time", "seconds", duration, compared=True)
    if plan["device"]["n_devices"] > 1:
        row("all-reduced per device", "all_reduce_bytes", size)
    return table


def _schedules(plan: dict[str, Any]) -> Iterator[str]:
    """The schedules, which an agent may choose by the budget."""
    by_words: dict[str, list[str]] = {}
    for name, run in plan["runs"].items():
        if name != "all_patches":
            by_words.setdefault(run["schedule"], []).append(_HEADS[name])
    for words, heads in by_words.items():
        yield f"{', '.join(heads)}: {words}"


def _memory(plan: dict[str, Any]) -> TextTable:
    """The memory of a step on each device."""
    columns = _memories(plan)
    table = TextTable(
        "Memory per device", [""], [counted(one["n_patches"], "patch") for one in columns]
    )
    for name, title in _PARTS.items():
        if name != "average" or plan["ema"]:
            table.add_row(title, *(size(one[name]) for one in columns))
    return table


def _memories(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """That on all patches, and that on the most of a schedule if these are fewer."""
    full, schedule = plan["memory"]["all_patches"], plan["memory"]["schedule"]
    return [full] if schedule["n_patches"] == full["n_patches"] else [full, schedule]


def _fits(plan: dict[str, Any]) -> Iterator[str]:
    several = " of all devices together" if plan["device"]["n_devices"] > 1 else ""
    for one in _memories(plan):
        verb = "fits" if one["fits"] else "does not fit"
        largest = one["largest_batch"]
        most = f"the largest batch that fits has {counted(largest, 'image')}{several}"
        yield (
            f"A step on {counted(one['n_patches'], 'patch')} {verb} into "
            f"{size(plan['memory']['available'])} per device; "
            f"{most if largest else 'not even one image does'}."
        )


def assumptions(plan: dict[str, Any]) -> Iterator[str]:
    """What the figures rest on."""
    device, several = plan["device"], plan["device"]["n_devices"] > 1
    yield (
        "Equal FLOPs, time or steps: the run on the schedule's patches ends as vit-patch train "
        "--budget flops, seconds or epochs does, when it has used as many as the run on all."
    )
    yield (
        "FLOPs are those of the matrix products of training steps, forward and backward; "
        "evaluation is left out."
    )
    yield (
        "Accuracy is not planned: which schedule is best has been measured on short runs only "
        "(docs/research.md)."
    )
    if plan["measured"] is None:
        yield (
            f"Time: {100 * device['efficiency']:.3g} % of {device['peak_flops'] / 1e12:g} "
            f"TFLOP/s ({device['source']}), for any number of patches. Steps on few patches may "
            "reach less."
        )
        yield "Reading and augmenting images takes no time."
    else:
        measured = plan["measured"]
        yield (
            f"Time: medians of steps on batches of {measured['batch_size']:,} random images, on "
            f"{', '.join(map(str, measured['counts']))} patches, measured here; between these "
            "numbers on a straight line, for larger batches in proportion. Reading images and the "
            "agent take no time."
        )
    if several and plan["measured"] is None:
        yield (
            f"The gradients' all-reduce, a ring at {size(device['interconnect'])}/s, runs beside "
            "the backward pass, two thirds of a step; what exceeds it is added."
        )
    yield (
        "Memory: what a step keeps in tensors. The allocator's unused blocks, kernels' workspaces, "
        "libraries and, on CUDA, the context are not in it: a step fits if "
        f"{plan['memory']['needed_share']:g} times its memory does, about the most that was "
        "measured on a CPU. On a GPU this factor is an assumption."
    )


def duration(seconds: float) -> str:
    """A time in words: "3.2 s", "12 min", "5.1 h", "12.3 days"."""
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86400:,.1f} days"


def size(n_bytes: float) -> str:
    """Bytes in words, in powers of ten: "1.2 GB"."""
    for power, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        rounded = float(f"{n_bytes / power:.3g}")
        if rounded >= 1:  # 999.9 MB are 1 GB
            return f"{rounded:,g} {name}"
    return f"{n_bytes:g} B"
