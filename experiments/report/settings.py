"""The settings that a comparison was made with."""

from typing import Any

from vit_patch_env.arguments import to_json
from vit_patch_env.checks import counted
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.compare.results import FULL, METHOD_KEYS, Comparison, is_timed
from vit_patch_env.experiments.report.metrics import flops_unit
from vit_patch_env.experiments.report.words import unique
from vit_patch_env.patches.grid import height_width

_STATED = (METHOD_KEYS - {"images"}) | {
    "dataset", "train_fraction", "val_fraction", "image_size", "patch_size", "dim", "depth",
    "heads", "dim_head", "mlp_dim", "budget", "epochs", "seconds", "batch_size", "optimizer",
    "learning_rate", "schedule", "precision",
}  # fmt: skip
"""Arguments of the environment that have a place of their own, or differ between methods."""


def settings(comparison: Comparison) -> dict[str, str]:
    """Names and values of the settings that all runs share."""
    env, content = comparison.env, comparison.content
    by_epochs = comparison.budget == "epochs"
    length = f"{budget(comparison)}, " if by_epochs else ""
    runs = list(comparison.runs.values())
    height, width = height_width(env["image_size"])
    patch = env["patch_size"]
    finished = {seed: sum(run.seed == seed for run in runs) for seed in comparison.seeds}
    n_methods = len(content["methods"])
    values = {
        "Data": _dataset(env),
        "ViT": (
            f"images of {height}x{width}, patches of {patch}x{patch}, dim {env.get('dim')}, depth "
            f"{env.get('depth')}, heads {env.get('heads')} of {env.get('dim_head')}, MLP "
            f"{env.get('mlp_dim')}"
        ),
        "Budget": "" if by_epochs else f"each run may use {budget(comparison)}",
        "Training": (
            f"{length}batch size {env.get('batch_size')}, optimizer {env.get('optimizer')}, "
            f"learning rate {env.get('learning_rate')}, schedule {env.get('schedule')}"
        ),
        "Other options": _others(env),
        "Desired patches": str(env.get("n_patches_desired")),
        "Methods finished per seed": ", ".join(
            f"seed {seed}: {count} of {n_methods}" for seed, count in finished.items()
        ),
        "Machine": "; ".join(unique(run.result["machine"] for run in runs)),
        "Device": "; ".join(unique(run.result["device_name"] for run in runs)),
        "Precision": ", ".join(unique(run.result["precision"] for run in runs)),
        "Runs in parallel": _jobs(content),
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
    """The budget of each run in words."""
    epochs = counted(comparison.env.get("epochs"), "epoch")
    if comparison.budget == "epochs":
        return epochs
    if comparison.budget == "flops":
        # A run exceeds the budget by a part of its last step.
        used = [run.metric("flops") for run in comparison.runs.values() if not run.diverged]
        unit, size = flops_unit(min(used, default=0.0))
        total = f": {min(used) / size:.3g} {unit}s" if used else ""
        return f"the FLOPs of {epochs} on all patches{total}"
    if not is_timed(comparison.env):
        return f"{comparison.env['seconds']:g} s"
    seconds = [run.seconds for run in comparison.valid_runs(FULL)]
    mean = f": {sum(seconds) / len(seconds):,.0f} s on average" if seconds else ""
    return f"the training time of {comparison.title(FULL)} with the same seed for {epochs}{mean}"


def sources(comparison: Comparison) -> dict[str, str]:
    """The publications of the methods with a finished run, by title."""
    found = comparison.content.get("sources", {})
    return {comparison.title(name): found[name] for name in comparison.methods if found.get(name)}


def warnings(comparison: Comparison) -> list[str]:
    """Why times may not be comparable, and which runs are missing."""
    runs = list(comparison.runs.values())
    lines = [
        f"The runs were made with more than one {name} ({'; '.join(values)}): their times and "
        "memory are not comparable."
        for key, name in (("machine", "machine"), ("device_name", "device"),
                          ("precision", "precision"))
        if len(values := unique(run.result[key] for run in runs)) > 1
    ]  # fmt: skip
    if comparison.unfinished:
        lines.append(f"Not finished: {_by_seeds(comparison.unfinished)}.")
    return lines + [f"Excluded: {problem}." for problem in comparison.problems]


def _dataset(env: dict[str, Any]) -> str:
    share = env.get("train_fraction", 1)
    part = f", {share:.0%} of the training images" if share < 1 else ""
    held_out = env.get("val_fraction")
    validation = f", {held_out:.0%} of those for validation" if held_out else ""
    name = "images from a folder" if env.get("dataset") == "folder" else env.get("dataset")
    return f"{name}{part}{validation}"


def _others(env: dict[str, Any]) -> str:
    """The other arguments, where they are not the defaults: "augment randaugment, mixup 0.2"."""
    changed = [
        (name.replace("_", " "), env[name])
        for name, default in to_json(EnvConfig()).items()
        if name not in _STATED and env[name] != default
    ]
    return ", ".join(
        f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in changed
    )


def _by_seeds(names: tuple[str, ...]) -> str:
    """Runs `<method>__<seed>`, methods with the same missing seeds together."""
    seeds: dict[str, list[str]] = {}
    for method, _, seed in (name.rpartition("__") for name in names):
        seeds.setdefault(method, []).append(seed)
    methods: dict[str, list[str]] = {}
    for method, missing in seeds.items():
        noun = "seed" if len(missing) == 1 else "seeds"
        methods.setdefault(f"{noun} {', '.join(missing)}", []).append(method)
    return "; ".join(f"{missing} of {', '.join(group)}" for missing, group in methods.items())


def _jobs(content: dict[str, Any]) -> str:
    jobs, threads = content.get("jobs", 1), content.get("threads")
    return f"{jobs}" + (f", {counted(threads, 'thread')} each" if threads else "")
