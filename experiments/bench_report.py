"""What a benchmark says: a table, a plot and a paragraph, from the content of bench.json."""

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table


def find(bench: dict[str, Any], name: str, n_patches: int) -> dict[str, Any]:
    """The figures of a contender."""
    for contender in bench["contenders"]:
        if (contender["name"], contender["n_patches"]) == (name, n_patches):
            return dict(contender)
    raise KeyError(name, n_patches)


def step_seconds(contender: dict[str, Any], kind: str = "step") -> float:
    """Median seconds per step, of the step alone or (`epoch_step`) of a whole epoch."""
    return float(statistics.median(contender[f"{kind}_seconds"]))


def agent_share(contender: dict[str, Any]) -> float:
    """Share of an epoch's step that goes to the agent, in [0, 1]."""
    return float(sum(contender["agent_parts"].values()) / contender["epoch_step_seconds"][-1])


def show_bench(bench: dict[str, Any], console: Console) -> None:
    """Print what was measured."""
    batch, ceiling = bench["batch_size"], bench["ceiling_flops_per_second"]
    console.print(
        f"{bench['device']}, {bench['threads']} threads, batches of {batch}. Matrix products reach "
        f"{ceiling['fp32'] / 1e9:.0f} GFLOP/s in fp32 and {ceiling['bf16'] / 1e9:.0f} GFLOP/s in "
        "bf16. Medians (and range) over the repeats.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    table = Table()
    for title in (
        "",
        "patches",
        "step, ms",
        "of the ceiling",
        "epoch, ms per step",
        "images/s",
        "GB",
    ):
        table.add_column(title, justify="left" if not title else "right")
    for contender in bench["contenders"]:
        step, epoch = step_seconds(contender), step_seconds(contender, "epoch_step")
        precision = "fp32" if "fp32" in contender["name"] else bench["precision"]
        table.add_row(
            contender["name"],
            str(contender["n_patches"]),
            _spread(contender["step_seconds"]),
            f"{contender['flops'] / ceiling[precision] / step:.0%}",
            _spread(contender["epoch_step_seconds"]),
            f"{batch / epoch:.0f}",
            f"{contender['peak_memory_bytes'] / 1e9:.1f}",
        )
    console.print(table)
    console.print(in_words(bench), highlight=False, soft_wrap=True)


def in_words(bench: dict[str, Any]) -> str:
    """What the figures mean: speed-ups, time against tokens, the agent's share, the limit."""
    ours, agent = find(bench, "ours", 64), find(bench, "ours with agent", 40)
    peer = find(bench, "vit-pytorch, fp32", 64)
    paper = find(bench, "the paper's way, fp32", 40)
    ceiling = bench["ceiling_flops_per_second"][bench["precision"]]
    reached = ours["flops"] / ceiling / step_seconds(ours)
    epochs = {
        name: step_seconds(contender, "epoch_step")
        for name, contender in (("peer", peer), ("paper", paper), ("agent", agent))
    }
    ratios = []
    for n_patches in (40, 16):
        fewer = find(bench, "ours", n_patches)
        time_ratio = step_seconds(ours) / step_seconds(fewer)
        flop_ratio = ours["flops"] / fewer["flops"]
        ratios.append(
            f"{time_ratio:.2f} at {n_patches} patches where the FLOPs fall by {flop_ratio:.2f} "
            f"({time_ratio / flop_ratio:.0%})"
        )
    parts = ", ".join(
        f"{name} {seconds / agent['epoch_step_seconds'][-1]:.1%}"
        for name, seconds in agent["agent_parts"].items()
    )
    return (
        "An epoch with the agent at 40 patches runs "
        f"{epochs['peer'] / epochs['agent']:.1f} times as many images per second as vit-pytorch "
        f"with all patches, and {epochs['paper'] / epochs['agent']:.1f} times as many as the "
        f"paper's way with 40. A step at 64 patches reaches {reached:.0%} of the matrix ceiling. "
        f"Against 64 patches, a step is faster by {' and '.join(ratios)}. Of an epoch's step with "
        f"the agent, its work takes {agent_share(agent):.1%} ({parts})."
    )


def draw_bench(bench: dict[str, Any], path: Path) -> None:
    """Plot images per second and step time against patches, with the line of the FLOP count."""
    ours = sorted(
        (c for c in bench["contenders"] if c["name"] == "ours"), key=lambda c: int(c["n_patches"])
    )
    full = ours[-1]
    patches = [contender["n_patches"] for contender in ours]
    ideal = [step_seconds(full) * contender["flops"] / full["flops"] for contender in ours]
    with mpl.rc_context({"axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        rates, times = figure.subplots(1, 2)
        for name in dict.fromkeys(contender["name"] for contender in bench["contenders"]):
            group = sorted(
                (c["n_patches"], step_seconds(c), step_seconds(c, "epoch_step"))
                for c in bench["contenders"]
                if c["name"] == name
            )
            x = [row[0] for row in group]
            rates.plot(x, [bench["batch_size"] / row[2] for row in group], "o-", label=name)
            times.plot(x, [1000 * row[1] for row in group], "o-", label=name)
        times.plot(patches, [1000 * seconds for seconds in ideal], "k:", label="by FLOPs")
        rates.set(xlabel="patches", ylabel="images per second", ylim=(0, None), title="Whole epoch")
        times.set(xlabel="patches", ylabel="milliseconds", ylim=(0, None), title="Training step")
        for axes in (rates, times):
            axes.set_xticks(patches)
        times.legend()
        figure.suptitle(
            f"{bench['device']}, {bench['threads']} threads, batches of {bench['batch_size']}"
        )
        figure.savefig(path, dpi=120)


def _spread(seconds: list[float]) -> str:
    low, middle, high = (
        f"{1000 * value:.0f}" for value in (min(seconds), statistics.median(seconds), max(seconds))
    )
    return f"{middle} ({low}-{high})"
