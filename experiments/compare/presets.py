"""Comparisons by name: their methods, seeds, data and training."""

from dataclasses import replace

from vit_patch_env.checks import ArgumentError
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.compare.methods import FAMILY, METHODS
from vit_patch_env.experiments.options.commands import CompareOptions
from vit_patch_env.experiments.task_set.table import VITS

_ALL = tuple(name for name in METHODS if name not in FAMILY)
"""Without the members of a family that tasks are searched with."""

PRESETS: dict[str, CompareOptions] = {
    # Every method on two cores in minutes, to check that everything works.
    "smoke": CompareOptions(
        preset="smoke",
        methods=_ALL,
        seeds=(0, 1),
        env=EnvConfig(epochs=4, **VITS["xs"]),
    ),
    # The paper's setting (Table 1): about 39,000 steps on 64 patches. For a GPU.
    "table2": CompareOptions(
        preset="table2",
        methods=_ALL,
        seeds=(0, 1, 2, 3, 4),
        env=EnvConfig(dataset="cifar10", epochs=100, batch_size=128),
    ),
    # A smaller ViT and budget for two CPU cores, with a schedule that suits it.
    "table2-cpu": CompareOptions(
        preset="table2-cpu",
        methods=_ALL,
        seeds=(0, 1, 2),
        jobs=2,
        env=EnvConfig(
            dataset="cifar10",
            train_fraction=0.5,
            batch_size=128,
            epochs=8,
            optimizer="adamw",
            learning_rate=2e-3,
            weight_decay=0.05,
            schedule="cosine",
            warmup_epochs=1,
            **VITS["s"],
        ),
    ),
}

BUDGET_METHODS = (
    "simple_vit", "agentvit", "pretrained", "bandit", "random", "centre", "attended",
    "random32", "random16", "random8", "random4", "pss", "pss_linear", "flip", "quadratic",
    "quadratic_spread",
)  # fmt: skip

MID_METHODS = (
    "simple_vit", "pretrained", "quadratic_spread", "from_16_power_4", "random16", "agentvit",
    "random", "flip", "pss_linear", "token_expansion",
)  # fmt: skip

# At equal FLOPs: fewer patches per step allow more steps.
PRESETS["budget"] = replace(
    PRESETS["table2"],
    preset="budget",
    methods=BUDGET_METHODS,
    env=replace(PRESETS["table2"].env, budget="flops", schedule="cosine"),
)
PRESETS["budget-cpu"] = replace(
    PRESETS["table2-cpu"],
    preset="budget-cpu",
    methods=BUDGET_METHODS,
    seeds=(0, 1, 2, 3, 4),
    env=replace(PRESETS["table2-cpu"].env, budget="flops", epochs=4),
)
# A larger ViT, more images and a longer budget: accuracies begin to be worth something.
PRESETS["budget-mid"] = replace(
    PRESETS["budget-cpu"],
    preset="budget-mid",
    methods=MID_METHODS,
    env=replace(PRESETS["budget-cpu"].env, train_fraction=1.0, epochs=20, **VITS["m"]),
)


def preset(name: str) -> CompareOptions:
    """The comparison of that name.

    Raises:
        ArgumentError: for an unknown one, naming the known ones.
    """
    if name not in PRESETS:
        raise ArgumentError("preset", f"must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]
