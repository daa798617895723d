"""What a comparison was made with, and in what that differs from the paper."""

from typing import Any

from vit_patch_env.experiments.compare.results import FULL, Comparison, is_timed
from vit_patch_env.experiments.report.measures import flops_unit

PAPER_VIT = {"patch_size": 4, "dim": 128, "depth": 6, "heads": 16, "mlp_dim": 512, "dim_head": 64}
"""The ViT of the paper's Table 1, on images of 32x32 pixels."""
PAPER_RECIPE = {
    "optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0, "schedule": "constant",
    "warmup_epochs": 0, "label_smoothing": 0.0,
}  # fmt: skip
"""What preset table2 takes for the paper's, which does not tell it."""
PAPER_STEPS = 39_000
"""About as many training steps as the paper's run has."""


def settings(comparison: Comparison) -> dict[str, str]:
    """Names and values of what all runs share, as a reader needs them."""
    env, content = comparison.env, comparison.content
    by_epochs = comparison.budget == "epochs"
    length = f"{budget(comparison)}, " if by_epochs else ""
    runs = list(comparison.runs.values())
    image, patch = env.get("image_size", "?"), env.get("patch_size", "?")
    finished = {seed: sum(run.seed == seed for run in runs) for seed in comparison.seeds}
    asked = len(content["methods"])
    values = {
        "Data": _dataset(env),
        "ViT": (
            f"images of {image}x{image}, patches of {patch}x{patch}, dim {env.get('dim')}, depth "
            f"{env.get('depth')}, heads {env.get('heads')} of {env.get('dim_head')}, MLP "
            f"{env.get('mlp_dim')}"
        ),
        "Budget": "" if by_epochs else f"each run may use {budget(comparison)}",
        "Training": (
            f"{length}batches of {env.get('batch_size')}, {env.get('optimizer')} at "
            f"{env.get('learning_rate')}, schedule {env.get('schedule')}"
        ),
        "Patches asked for": str(env.get("n_patches_desired")),
        "Methods finished per seed": ", ".join(
            f"seed {seed}: {count} of {asked}" for seed, count in finished.items()
        ),
        "Machine": "; ".join(unique([run.result["machine"] for run in runs])),
        "Device": "; ".join(unique([run.result["device_name"] for run in runs])),
        "Precision": ", ".join(unique([run.result["precision"] for run in runs])),
        "Runs at once": _jobs(content),
        "Versions": ", ".join(
            f"{name} {version}"
            for name, version in {
                "Python": content.get("python", "?"),
                **content.get("versions", {}),
            }.items()
        ),
    }
    return {name: value for name, value in values.items() if value}


def budget(comparison: Comparison) -> str:
    """How much training each run may use, in words."""
    epochs = _count(comparison.env.get("epochs"), "epoch")
    if comparison.budget == "epochs":
        return epochs
    if comparison.budget == "flops":
        # A run goes beyond the budget by a part of its last step.
        used = [run.figure("flops") for run in comparison.runs.values() if not run.diverged]
        unit, size = flops_unit(min(used, default=0.0))
        total = f": {min(used) / size:.3g} {unit}s" if used else ""
        return f"the FLOPs of {epochs} on all patches{total}"
    if not is_timed(comparison.env):
        return f"{comparison.env['seconds']:g} s"
    taken = [run.seconds for run in comparison.sound_runs(FULL)]
    mean = f": {sum(taken) / len(taken):,.0f} s on average" if taken else ""
    return f"as many seconds as {comparison.title(FULL)} of the same seed took for {epochs}{mean}"


def sources(comparison: Comparison) -> dict[str, str]:
    """Where the methods with a finished run come from, by title."""
    found = comparison.content.get("sources", {})
    return {comparison.title(name): found[name] for name in comparison.methods if found.get(name)}


def warnings(comparison: Comparison) -> list[str]:
    """Why times may not be comparable, and what is not in the figures."""
    runs = list(comparison.runs.values())
    mixed = [
        f"The runs were made with more than one {what} ({'; '.join(values)}): their times and "
        "memory do not compare."
        for what in ("machine", "device_name", "precision")
        if len(values := unique([run.result[what] for run in runs])) > 1
    ]
    if comparison.unfinished:
        mixed.append(f"Not finished: {_by_seeds(comparison.unfinished)}.")
    return mixed + [f"Left out: {problem}." for problem in comparison.problems]


def reasons(comparison: Comparison) -> list[str]:
    """Why the figures can differ from the paper's, as far as the settings tell."""
    env = comparison.env
    runs = [run for run in comparison.runs.values() if not run.diverged]
    devices = ", ".join(unique([run.result["device_name"] for run in runs])) or "unknown"
    found = [f"hardware: {devices} here, a Tesla K80 in the paper"]
    if env.get("dataset") == "folder":
        found.append(
            "data: images from a folder, where the paper reads CIFAR-10's original files; copies "
            "saved as JPEG lose detail"
        )
    elif env.get("dataset") != "cifar10":
        found.append(f"data: {env.get('dataset')} here, CIFAR-10 in the paper")
    if env.get("train_fraction", 1) < 1:
        found.append(f"data: {env['train_fraction']:.0%} of the training images")
    steps = sorted({int(run.result["n_steps"]) for run in runs if run.result["n_steps"]})
    if comparison.budget != "epochs":
        found.append(
            f"budget: {budget(comparison)}, whatever the method, where each of the paper's trains "
            "for as many epochs"
        )
    elif steps and abs(steps[-1] / PAPER_STEPS - 1) > 0.05:
        found.append(
            f"budget: {budget(comparison)}, {steps[-1]:,} training steps in all here, about "
            f"{PAPER_STEPS:,} in the paper"
        )
    sizes = [
        f"{name} {env.get(name)} (paper {value})"
        for name, value in PAPER_VIT.items()
        if env.get(name) != value
    ]
    if sizes:
        found.append(f"model: {', '.join(sizes)}")
    recipe = [
        f"{name.replace('_', ' ')} {env.get(name)} (preset table2: {value})"
        for name, value in PAPER_RECIPE.items()
        if env.get(name, value) != value
    ]
    if recipe:
        found.append(f"recipe: {', '.join(recipe)}")
    if env.get("n_patches_desired") != 40:
        found.append(f"patches asked for: {env.get('n_patches_desired')} (paper 40)")
    if any(run.result["precision"] != "fp32" for run in runs):
        found.append("precision: bf16 in part of the arithmetic")
    jobs = comparison.content.get("jobs", 1)
    if jobs > 1:
        found.append(
            f"{jobs} runs at once share the machine, which lengthens each, and not always alike: "
            "intervals of times do not cover that"
        )
    found.append(
        "code: this package's own fused attention and training step, which shift how much time "
        "fewer patches save and what share of it an agent takes; on a CPU, ATS and ToMe need an "
        "attention that the fused kernel has not, and take the general path in most layers"
    )
    return ["What differs from the paper's setting: " + "; ".join(found) + "."]


def unique(values: list[Any]) -> list[str]:
    """Each value once, in order, without what is missing."""
    return list(dict.fromkeys(str(value) for value in values if value))


def _dataset(env: dict[str, Any]) -> str:
    share = env.get("train_fraction", 1)
    part = f", {share:.0%} of the training images" if share < 1 else ""
    held_out = env.get("val_fraction")
    validation = f", {held_out:.0%} of those for validation" if held_out else ""
    name = "images of a folder" if env.get("dataset") == "folder" else env.get("dataset")
    return f"{name}{part}{validation}"


def _by_seeds(names: tuple[str, ...]) -> str:
    """Runs `<method>__<seed>`, those methods together that lack the same seeds."""
    seeds: dict[str, list[str]] = {}
    for method, _, seed in (name.rpartition("__") for name in names):
        seeds.setdefault(method, []).append(seed)
    methods: dict[str, list[str]] = {}
    for method, lacking in seeds.items():
        noun = "seed" if len(lacking) == 1 else "seeds"
        methods.setdefault(f"{noun} {', '.join(lacking)}", []).append(method)
    return "; ".join(f"{lacking} of {', '.join(group)}" for lacking, group in methods.items())


def _jobs(content: dict[str, Any]) -> str:
    jobs, threads = content.get("jobs", 1), content.get("threads")
    return f"{jobs}" + (f", {_count(threads, 'thread')} each" if threads else "")


def _count(number: Any, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
