"""A benchmark's report: tables, a plot and a summary, from the content of bench.json.

Ratios are computed per repeat, so that a drift of the machine's speed does not affect them.
"""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from vit_patch_env.checks import counted
from vit_patch_env.experiments.bench.setups import AGENT, OURS, PAPER, VIT_PYTORCH
from vit_patch_env.experiments.process.output import TextTable, print_line, print_table
from vit_patch_env.system.escaping import label

COLOURS = {VIT_PYTORCH: "C3", PAPER: "C2", OURS: "C0", AGENT: "C1"}
MAX_SPREAD = 0.2
"""Interquartile range over median, above which a ratio is not reported."""

SPEED_UP = "speed-up over vit-pytorch"
PAPER_SPEED_UP = "speed-up over the paper's way"
CEILING_SHARE = "share of the ceiling at 64 patches"
AGENT_SHARE = "agent's share at 40 patches"


def ratios(bench: dict[str, Any]) -> dict[str, list[float]]:
    """All ratios for which the contenders were measured, each with a value per repeat."""
    by_key = {(c["name"], c["n_patches"]): c for c in bench["contenders"]}

    def per_repeat(
        function: Callable[..., float], *keys: tuple[str, int, str]
    ) -> list[float] | None:
        if any((name, n_patches) not in by_key for name, n_patches, _ in keys):
            return None
        columns = (by_key[name, n_patches][what] for name, n_patches, what in keys)
        return [function(*values) for values in zip(*columns, strict=True)]

    def quotient(left: float, right: float) -> float:
        return left / right

    step, epoch = "step_seconds", "epoch_step_seconds"
    flops = {c["n_patches"]: c["flops"] for c in bench["contenders"]}
    found = {
        SPEED_UP: per_repeat(quotient, (VIT_PYTORCH, 64, epoch), (AGENT, 40, epoch)),
        PAPER_SPEED_UP: per_repeat(quotient, (PAPER, 40, epoch), (AGENT, 40, epoch)),
        CEILING_SHARE: per_repeat(
            lambda seconds, ceiling: float(flops[64] / seconds / ceiling),
            (OURS, 64, step), (OURS, 64, "ceiling"),
        ),
        **{
            time_ratio(n_patches): per_repeat(quotient, (OURS, 64, step), (OURS, n_patches, step))
            for n_patches in (40, 16)
        },
    }  # fmt: skip
    agent = by_key.get((AGENT, 40))
    if agent is not None and agent["agent_seconds"]:
        parts = zip(*agent["agent_seconds"].values(), strict=True)
        found[AGENT_SHARE] = [
            sum(seconds) / total for seconds, total in zip(parts, agent[epoch], strict=True)
        ]
    return {name: values for name, values in found.items() if values}


def time_ratio(n_patches: int) -> str:
    """Name of the ratio of step times at 64 patches and at fewer."""
    return f"step time, 64 over {n_patches} patches"


def spread(values: list[float]) -> float:
    """Interquartile range over median."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float((high - low) / middle)


def unstable_ratios(bench: dict[str, Any]) -> list[str]:
    """Names of the ratios whose spread over the repeats is too large, each with its spread."""
    return [
        f"{name} ({spread(values):.0%})"
        for name, values in ratios(bench).items()
        if spread(values) > MAX_SPREAD
    ]


def show_bench(bench: dict[str, Any], console: Console) -> None:
    """Print the tables and the summary."""
    rates = []
    for precision in dict.fromkeys(c["precision"] for c in bench["contenders"]):
        values = [
            x for c in bench["contenders"] if c["precision"] == precision for x in c["ceiling"]
        ]
        rates.append(f"{statistics.median(values) / 1e9:.0f} GFLOP/s in {precision}")
    print_line(
        f"{bench['device']}, {counted(bench['threads'], 'thread')}, batches of "
        f"{bench['batch_size']}; ours in {bench['precision']}. Matrix products reach "
        f"{' and '.join(rates)}. Medians (and range) "
        "over the repeats.",
        console,
    )
    for table in (_contenders(bench), _agents(bench), _shares(bench)):
        print_table(table, console)
    print_line(summary(bench), console)


def _contenders(bench: dict[str, Any]) -> TextTable:
    cuda = any(contender["idle_share"] is not None for contender in bench["contenders"])
    heads = ["patches", "step, ms", "of ceiling", "epoch, ms per step", "images/s", "GB"]
    table = TextTable("Training", [""], [*heads, *(["GPU idle"] if cuda else [])])
    for contender in bench["contenders"]:
        shares = [
            contender["flops"] / seconds / ceiling
            for seconds, ceiling in zip(
                contender["step_seconds"], contender["ceiling"], strict=True
            )
        ]
        epoch = statistics.median(contender["epoch_step_seconds"])
        table.add_row(
            contender["name"], str(contender["n_patches"]),
            _spread_ms(contender["step_seconds"]) if shares else "",
            f"{statistics.median(shares):.0%}" if shares else "",
            _spread_ms(contender["epoch_step_seconds"]),
            f"{bench['batch_size'] / epoch:.0f}", f"{contender['peak_memory_bytes'] / 1e9:.1f}",
            *([_percent(contender["idle_share"])] if cuda else []),
        )  # fmt: skip
    for contender in bench["skipped"]:
        table.add_row(contender["name"], str(contender["n_patches"]), "skipped")
    reasons = dict.fromkeys(str(contender["reason"]) for contender in bench["skipped"])
    if reasons:
        table.add_caption(f"Skipped: {'; '.join(reasons)}.")
    return table


def _agents(bench: dict[str, Any]) -> TextTable:
    """The agent's parts, in milliseconds per step."""
    agents = [contender for contender in bench["contenders"] if contender["agent_seconds"]]
    parts = list(dict.fromkeys(part for agent in agents for part in agent["agent_seconds"]))
    heads = ["patches", *parts, "together", "of the step"]
    table = TextTable("The agent, ms per step", [""], heads)
    for agent in agents:
        seconds = [statistics.median(agent["agent_seconds"][part]) for part in parts]
        total = statistics.median(agent["epoch_step_seconds"])
        table.add_row(
            agent["name"], str(agent["n_patches"]), *(f"{1000 * value:.2f}" for value in seconds),
            f"{1000 * sum(seconds):.1f}", f"{sum(seconds) / total:.1%}",
        )  # fmt: skip
    return table


def _shares(bench: dict[str, Any]) -> TextTable:
    """The parts of a step."""
    contenders = [contender for contender in bench["contenders"] if contender["name"] == OURS]
    parts = list(dict.fromkeys(part for c in contenders for part in c["step_shares"]))
    table = TextTable("Parts of a step", [""], ["patches", *parts])
    for contender in contenders:
        table.add_row(
            contender["name"], str(contender["n_patches"]),
            *(_percent(contender["step_shares"].get(part)) for part in parts),
        )  # fmt: skip
    return table


def summary(bench: dict[str, Any]) -> str:
    """Sentences on speed-ups, step time against patches, the agent's share and the bottleneck."""
    found = ratios(bench)
    flops = {contender["n_patches"]: contender["flops"] for contender in bench["contenders"]}

    def sentence(name: str, template: str, percent: bool = False) -> str:
        if name not in found:
            return ""
        values = found[name]
        if spread(values) > MAX_SPREAD:
            return (
                f"The {name} is not reported: the spread of its {counted(len(values), 'repeat')} "
                f"is {spread(values):.0%}."
            )
        middle = statistics.median(values)
        return template.format(f"{middle:.1%}" if percent else f"{middle:.2f}")

    sentences = [
        sentence(
            SPEED_UP,
            "An epoch with the agent at 40 patches processes {} times as many images per second as "
            "vit-pytorch with all patches.",
        ),
        sentence(PAPER_SPEED_UP, "It processes {} times as many as the paper's way with 40."),
        sentence(CEILING_SHARE, "A step at 64 patches reaches {} of the matmul ceiling.", True),
    ]
    for n_patches in (40, 16):
        name = time_ratio(n_patches)
        if name in found:
            ideal = flops[64] / flops[n_patches]
            share = statistics.median(found[name]) / ideal
            sentences.append(
                sentence(
                    name,
                    f"At {n_patches} patches it is {{}} times as fast, with 1/{ideal:.2f} of the "
                    f"FLOPs ({share:.0%} of the ideal speed-up).",
                )
            )
    sentences += [
        sentence(AGENT_SHARE, "The agent takes {} of a step at 40 patches.", True),
        _bottleneck(bench),
    ]
    return " ".join(filter(None, sentences))


def _bottleneck(bench: dict[str, Any]) -> str:
    """How far a step is from the ceiling, and which of its parts is the bottleneck."""
    full = next((c for c in bench["contenders"] if (c["name"], c["n_patches"]) == (OURS, 64)), None)
    if full is None or not full["step_shares"]:
        return ""
    seconds = statistics.median(full["step_seconds"])
    bound = full["flops"] / statistics.median(full["ceiling"])
    shares = dict(full["step_shares"])
    parts = ", ".join(f"{part} {share:.0%}" for part, share in shares.items())
    largest = max(
        (part for part in shares if part != "matrix products"), key=lambda part: shares[part]
    )
    idle = full["idle_share"]
    return (
        f"At 64 patches {1000 * (seconds - bound):.0f} of {1000 * seconds:.0f} ms are above the "
        f"lower bound of {1000 * bound:.0f} ms, its FLOPs at the matmul ceiling. Parts of the "
        f"step: {parts}; the largest part besides the matrix products is {largest}."
        + ("" if idle is None else f" The GPU is idle for {idle:.0%} of the time.")
    )


def plot_bench(bench: dict[str, Any], path: Path) -> None:
    """Plot images per second and step time against patches, with lines proportional to FLOPs."""
    batch = bench["batch_size"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for contender in sorted(bench["contenders"], key=lambda c: int(c["n_patches"])):
        groups.setdefault(contender["name"], []).append(contender)
    with mpl.rc_context({"axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        rates, times = figure.subplots(1, 2)
        for name, group in groups.items():
            style: dict[str, Any] = {"marker": "o", "color": COLOURS[name], "label": name}
            patches = [contender["n_patches"] for contender in group]
            step = [statistics.median(c["step_seconds"] or [math.nan]) for c in group]
            epoch = [statistics.median(c["epoch_step_seconds"]) for c in group]
            rates.plot(patches, [batch / seconds for seconds in epoch], **style)
            if name != AGENT:  # its steps are those without the agent
                times.plot(patches, [1000 * seconds for seconds in step], **style)
            if name == OURS:
                style = {"color": "k", "linestyle": ":", "label": "proportional to FLOPs"}
                flops = np.array([contender["flops"] for contender in group])
                relative = flops / flops[-1]
                rates.plot(patches, batch / epoch[-1] / relative, **style)
                times.plot(patches, 1000 * step[-1] * relative, **style)
                rates.set_xticks(patches)
                times.set_xticks(patches)
        rates.set(xlabel="patches", ylabel="images per second", ylim=(0, None), title="Whole epoch")
        times.set(xlabel="patches", ylabel="milliseconds", ylim=(0, None), title="Training step")
        rates.legend()
        figure.suptitle(
            f"{label(bench['device'], 80)}, {counted(bench['threads'], 'thread')}, "
            f"batches of {batch}, ours "
            f"in {bench['precision']}"
        )
        figure.savefig(path, dpi=120)


def _spread_ms(seconds: list[float]) -> str:
    low, middle, high = (
        f"{1000 * value:.0f}" for value in (min(seconds), statistics.median(seconds), max(seconds))
    )
    return f"{middle} ({low}-{high})"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
