"""The options of a comparison: their checks, and the command that gives them."""

from dataclasses import replace

from vit_patch_env.checks import ArgumentError, named
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.checkpoints.interval import parse_interval
from vit_patch_env.experiments.compare.agent_methods import find_methods, is_file, method_key
from vit_patch_env.experiments.compare.presets import PRESETS
from vit_patch_env.experiments.compare.results import FULL, is_timed
from vit_patch_env.experiments.options.commands import (
    CompareOptions,
    TrainOptions,
    on_this_machine,
)
from vit_patch_env.experiments.options.flat import command
from vit_patch_env.experiments.runs.resume import run_config
from vit_patch_env.names import BudgetName


def compare_command(options: CompareOptions, methods: list[str], seeds: list[int]) -> str:
    """The single command for all runs of a comparison, which may result from several calls."""
    options = replace(on_this_machine(options), storage=None, out=None)
    options = replace(options, methods=tuple(methods), seeds=tuple(seeds))
    return command("compare", options, PRESETS[options.preset], given=("preset",))


def differences(found: TrainOptions, expected: TrainOptions) -> str:
    """The values that affect results and differ between two runs."""
    old, new = run_config(found), run_config(expected)
    for values in (old, new):
        del values["follow"]
    if is_file(old["agent"]) and is_file(new["agent"]):
        new["agent"] = old["agent"]  # copies, which compare.json has checksums of
    return ", ".join(
        f"{named(name)} {old[name]} instead of {new[name]}"
        for name in new
        if old[name] != new[name]
    )


def check_options(options: CompareOptions) -> None:
    """Check the options of a comparison.

    Raises:
        ArgumentError: naming the option that is not valid.
    """
    check_methods(options, options.env.budget)
    if is_timed(vars(options.env)) and FULL not in options.methods:
        chosen = ", ".join(options.methods)
        raise ArgumentError(
            "methods",
            f"must include {FULL}, whose training time is the budget if {named('seconds')} is not "
            f"given, got {chosen}",
        )
    for name in ("model", "keep_rate", "observation", "reward", "per_image"):
        if getattr(options.env, name) != getattr(EnvConfig, name):
            raise ArgumentError(name, f"is set by the methods, got {getattr(options.env, name)}")


def check_methods(options: CompareOptions, budget: BudgetName) -> None:
    """Check what does not depend on the environment but for its budget: methods, seeds, interval.

    Raises:
        ArgumentError: naming the option that is not valid.
    """
    parse_interval(options.checkpoint_every)
    keys = tuple(map(method_key, options.methods))
    for name, values in (("methods", keys), ("seeds", options.seeds)):
        if not values:
            raise ArgumentError(name, "must be at least one, got none")
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ArgumentError(name, f"must differ from each other, got {twice} twice")
    chosen = ", ".join(options.methods)
    for name, method in find_methods(options.methods).items():
        followed = method.follows
        if followed not in (None, *options.methods):
            raise ArgumentError(
                "methods",
                f"must include {followed}, whose number of patches {name} keeps, got {chosen}",
            )
        if method.agent == "matched" and budget != "epochs":
            raise ArgumentError(
                "budget",
                f"must be epochs, so that all runs have as many steps, for method {name}, which "
                f"repeats another run step by step, got {budget}",
            )
