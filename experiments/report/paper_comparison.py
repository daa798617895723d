"""Sentences that compare the results with the AgentViT paper's."""

from typing import Any

from vit_patch_env.experiments.compare.results import FULL, Comparison
from vit_patch_env.experiments.report import paper
from vit_patch_env.experiments.report.metrics import ComparisonMetrics
from vit_patch_env.experiments.report.paper import AGENT, TABLE2
from vit_patch_env.experiments.report.settings import budget
from vit_patch_env.experiments.report.statistics import difference, ratio
from vit_patch_env.experiments.report.words import points, unique


def claim(metrics: ComparisonMetrics) -> str:
    """Whether the agent trains faster than all patches at a higher accuracy, as in the paper."""
    paper_ratio = TABLE2[AGENT].seconds / TABLE2[FULL].seconds
    paper_points = TABLE2[AGENT].accuracy - TABLE2[FULL].accuracy
    reported = (
        f"The paper reports, for AgentViT against SimpleViT64, {paper_ratio:.2f} times the "
        f"training time and {points(paper_points)} points of accuracy."
    )
    time = metrics.compare(AGENT, FULL, "seconds", ratio)
    accuracy = metrics.compare(AGENT, FULL, "accuracy", difference)
    if not time.n or not accuracy.n:
        return f"{reported} This cannot be tested here: no seed has a finished run of both."
    sides = time.side(1), accuracy.side(0)
    if None in sides:
        return f"{reported} One paired seed is not enough to test this here."
    if sides == (-1, 1):
        return f"{reported} This is reproduced here: it is faster and more accurate."
    outcomes = [
        {-1: "it is faster", 0: "its time does not differ significantly", 1: "it is slower"},
        {-1: "it is less accurate", 0: "its accuracy does not differ significantly",
         1: "it is more accurate"},
    ]  # fmt: skip
    time_outcome, accuracy_outcome = (
        outcome[side] for outcome, side in zip(outcomes, sides, strict=True) if side is not None
    )
    link = "and" if sides in ((1, -1), (0, 0)) else "but"
    return f"{reported} This is not reproduced here: {time_outcome}, {link} {accuracy_outcome}."


def against_paper(metrics: ComparisonMetrics) -> list[str]:
    """The results next to the paper's, and how the settings differ."""
    if metrics.comparison.budget != "epochs":
        return reasons(metrics.comparison)
    methods = [name for name in TABLE2 if name in metrics.points("seconds")]
    if not methods:
        return []
    values = [
        f"{metrics.title(name)} {metrics.mean(name, 'accuracy'):.4f} (paper "
        f"{TABLE2[name].accuracy:.4f}) in {metrics.mean(name, 'seconds'):,.0f} s (paper "
        f"{TABLE2[name].seconds:,.0f} s)"
        for name in methods
    ]
    sentences = [f"Accuracy and training time compared with the paper: {'; '.join(values)}."]
    if len(methods) > 1:
        for metric, sign in (("accuracy", -1), ("seconds", 1)):
            here = sorted(methods, key=lambda name: sign * metrics.mean(name, metric))
            there = sorted(methods, key=lambda name: sign * getattr(TABLE2[name], metric))
            order = "most to least accurate" if metric == "accuracy" else "fastest to slowest"
            names = ", ".join(metrics.title(name) for name in here)
            same = "as in the paper" if here == there else (
                "in the paper " + ", ".join(metrics.title(name) for name in there)
            )  # fmt: skip
            sentences.append(f"From {order}: {names}; {same}.")
    return sentences + reasons(metrics.comparison)


def reasons(comparison: Comparison) -> list[str]:
    """Differences between the comparison's settings and the paper's, as one sentence."""
    env = comparison.env
    runs = [run for run in comparison.runs.values() if not run.diverged]
    devices = ", ".join(unique(run.result["device_name"] for run in runs)) or "unknown"
    steps = sorted({int(run.result["n_steps"]) for run in runs if run.result["n_steps"]})
    found = [
        f"hardware: {devices} here, a Tesla K80 in the paper",
        *_data_differences(env),
        *_budget_difference(comparison, steps[-1] if steps else None),
    ]
    sizes = [
        f"{name} {env.get(name)} (paper {value})"
        for name, value in paper.VIT.items()
        if env.get(name) != value
    ]
    if sizes:
        found.append(f"model: {', '.join(sizes)}")
    recipe = [
        f"{name.replace('_', ' ')} {env.get(name)} (preset table2: {value})"
        for name, value in paper.RECIPE.items()
        if env.get(name, value) != value
    ]
    if recipe:
        found.append(f"recipe: {', '.join(recipe)}")
    desired = env.get("n_patches_desired")
    if desired != paper.N_PATCHES_DESIRED:
        found.append(f"desired patches: {desired} (paper {paper.N_PATCHES_DESIRED})")
    if any(run.result["precision"] != "fp32" for run in runs):
        found.append("precision: part of the arithmetic is bf16")
    jobs = comparison.content.get("jobs", 1)
    if jobs > 1:
        found.append(
            f"{jobs} runs in parallel share the machine, which makes each slower, and not always "
            "by the same factor: the intervals of times do not include this"
        )
    found.append(
        "code: this package has its own fused attention and training step, which changes how much "
        "time fewer patches save and which share of it an agent takes; on a CPU, ATS and ToMe "
        "need attention weights that the fused kernel does not return, and use the general "
        "implementation in most layers"
    )
    return ["Differences from the paper's setting: " + "; ".join(found) + "."]


def _data_differences(env: dict[str, Any]) -> list[str]:
    found = []
    if env.get("dataset") == "folder":
        found.append(
            "data: images from a folder, where the paper reads CIFAR-10's original files; copies "
            "saved as JPEG lose detail"
        )
    elif env.get("dataset") != "cifar10":
        found.append(f"data: {env.get('dataset')} here, CIFAR-10 in the paper")
    if env.get("train_fraction", 1) < 1:
        found.append(f"data: {env['train_fraction']:.0%} of the training images")
    return found


def _budget_difference(comparison: Comparison, n_steps: int | None) -> list[str]:
    if comparison.budget != "epochs":
        return [
            f"budget: {budget(comparison)}, where all of the paper's methods train for the same "
            "number of epochs"
        ]
    if n_steps and abs(n_steps / paper.N_STEPS - 1) > 0.05:
        return [
            f"budget: {budget(comparison)}, {n_steps:,} training steps here, about "
            f"{paper.N_STEPS:,} in the paper"
        ]
    return []
