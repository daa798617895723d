"""The results of a comparison, read from its folder and checked; nothing is trained."""

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_patch_env.arguments import declared, from_json
from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.compare.run_result import (
    RunResult,
    complete_env,
    parse_name,
    read_config,
    read_run,
)
from vit_patch_env.experiments.run_folder.folder import CONFIG, RUNS, RunFolder, check_holds
from vit_patch_env.experiments.run_folder.schemas import (
    BUDGET_FIELDS,
    COMPARE_FIELDS,
    check_fields,
    read_checked,
)
from vit_patch_env.system.shown import escaped

__all__ = [
    "BASELINE", "COMPARE", "FULL", "METHOD_KEYS", "Comparison", "RunResult", "check_run",
    "complete_env", "is_timed", "read_comparison", "read_run", "timed_budget",
]  # fmt: skip

COMPARE = "compare.json"

SAME_RUN_KEYS = frozenset(one.name for one in declared(EnvConfig) if not one.changes_run)
"""Arguments of the environment that do not change the course of a run."""

METHOD_KEYS = SAME_RUN_KEYS | {
    "model", "keep_rate", "observation", "reward", "per_image", "n_patches_desired",
}  # fmt: skip
"""Arguments of the environment in which the runs of one comparison may differ."""

FULL = "simple_vit"
"""Trains on all patches. Its training time is the others' budget of seconds by default."""

BASELINE = "baseline"
"""Group of the published methods that are compared with."""
_OLD_GROUPS = {"rival": BASELINE}


@dataclass(frozen=True)
class Comparison:
    """A comparison: what was requested, and the finished runs.

    Attributes:
        folder: with compare.json and runs/.
        content: content of compare.json.
        runs: finished runs of its configuration, by method and seed in compare.json's order.
        problems: a line for each excluded folder: damaged, or of another configuration.
        unfinished: names of the runs without result.json, started or not.
    """

    folder: Path
    content: dict[str, Any]
    runs: dict[tuple[str, int], RunResult]
    problems: tuple[str, ...]
    unfinished: tuple[str, ...]

    @property
    def env(self) -> dict[str, Any]:
        """Arguments of the environment that all runs share."""
        return complete_env(self.content["env"])

    @property
    def budget(self) -> str:
        """What is equal for all runs: `epochs`, `flops` or `seconds`."""
        return str(self.env["budget"])

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch; known only if the budget is not epochs."""
        return int(self.content["images"]["train"]) // int(self.env["batch_size"])

    @property
    def methods(self) -> list[str]:
        """Methods with a finished run, in compare.json's order."""
        return list(dict.fromkeys(method for method, _ in self.runs))

    @property
    def seeds(self) -> list[int]:
        """Requested seeds."""
        return list(self.content["seeds"])

    def title(self, method: str) -> str:
        """A method's name in tables and plots, one line of at most 200 characters."""
        return escaped(str(self.content.get("titles", {}).get(method, method)))

    def group(self, method: str) -> str:
        """`paper`, `agent`, `rule` or `baseline`."""
        group = str(self.content.get("groups", {}).get(method, BASELINE))
        return _OLD_GROUPS.get(group, group)

    def valid_runs(self, method: str) -> list[RunResult]:
        """A method's finished runs that did not diverge."""
        return [run for run in self.finished_runs(method) if not run.diverged]

    def finished_runs(self, method: str) -> list[RunResult]:
        """A method's finished runs, including those that diverged."""
        return [run for (name, _), run in self.runs.items() if name == method]


def read_comparison(folder: str | Path, *, with_steps: bool = True) -> Comparison:
    """The comparison in a folder; damaged runs and those of other configurations are excluded.

    Args:
        folder: that `vit-patch compare` wrote.
        with_steps: see `read_run`.

    Raises:
        ValueError: if compare.json is missing or damaged.
    """
    folder = Path(folder)
    check_holds(folder, COMPARE, "folder", "a folder that vit-patch compare wrote")
    content = _read_content(folder)
    runs: dict[tuple[str, int], RunResult] = {}
    problems, unfinished = [], []
    requested = [(method, seed) for method in content["methods"] for seed in content["seeds"]]
    for method, seed in requested:
        path = folder / RUNS / f"{method}__{seed}"
        if not RunFolder(path).is_finished:
            unfinished.append(path.name)
            continue
        try:
            check_run(path, content["env"])
            runs[method, seed] = read_run(path, with_steps=with_steps)
        except ValueError as error:
            problems.append(" ".join(str(error).split()))
    warn_without_checksum(runs.values())
    known = {f"{method}__{seed}" for method, seed in requested}
    problems += [
        f"{path}: not in {COMPARE}, by method or seed"
        for path in sorted((folder / RUNS).glob("*"))
        if path.is_dir() and path.name not in known
    ]
    return Comparison(folder, content, runs, tuple(problems), tuple(unfinished))


def warn_without_checksum(runs: Iterable[RunResult]) -> None:
    """Say whose configuration cannot be compared with a checksum, as older versions wrote none."""
    older = [run.path for run in runs if CONFIG not in run.result["files"]]
    if older:
        others = f" and {len(older) - 1} more" * (len(older) > 1)
        warnings.warn(
            f"{older[0]}{others}: of an older version, without a checksum of {CONFIG}",
            stacklevel=3,
        )


def _read_content(folder: Path) -> dict[str, Any]:
    """Content of compare.json."""
    path = folder / COMPARE
    content = read_checked(path, COMPARE_FIELDS)
    for name in content["methods"]:
        if not re.fullmatch(r"\w+", name):  # it is part of a folder's name
            raise InputError(f"{folder}: damaged: expected names of methods, got {name!r}")
    try:
        from_json(EnvConfig, content["env"])
    except ArgumentError as error:
        raise InputError(f"{folder}: damaged: env in {COMPARE}: {error}") from error
    if complete_env(content["env"])["budget"] != "epochs":
        check_fields(path, content, BUDGET_FIELDS)
    return content


def check_run(folder: Path, expected_env: Mapping[str, Any]) -> None:
    """Refuse a run that was made with other arguments than the comparison's.

    Args:
        folder: of the run, `<method>__<seed>`; finished or not.
        expected_env: arguments of the environment; those in `METHOD_KEYS` may differ.

    Raises:
        ValueError: naming the folder and the arguments that differ, if config.json is damaged, or
            if the budget is the training time of a run that is not finished.
    """
    options = read_config(folder)["options"]
    method, seed = parse_name(folder)
    expected = complete_env(json.loads(json.dumps(dict(expected_env)))) | {"seed": seed}
    if is_timed(expected):
        timed = None if method == FULL else RunFolder(folder.with_name(f"{FULL}__{seed}"))
        expected |= timed_budget(timed)
    got = complete_env(options["env"]) | {"seed": options["seed"]}
    differing = [
        f"{key} is {got.get(key)}, expected {expected.get(key)}"
        for key in dict.fromkeys([*expected, *got])
        if key not in METHOD_KEYS and got.get(key) != expected.get(key)
    ]
    if differing:
        raise InputError(f"{folder}: another configuration: {'; '.join(differing)}")


def is_timed(env: Mapping[str, Any]) -> bool:
    """Whether the budget of each run is the training time of SimpleViT64 with the same seed."""
    return env["budget"] == "seconds" and env["seconds"] is None


def timed_budget(timed: RunFolder | None) -> dict[str, Any]:
    """The budget of a run in such a comparison, as arguments of the environment.

    Args:
        timed: the finished run whose training time is the budget; None for that run itself.

    Raises:
        ValueError: if that run is not finished.
    """
    if timed is None:
        return {"budget": "epochs", "seconds": None}
    result = timed.read_result()
    train_seconds, agent_seconds = result["train_seconds"], result["agent_seconds"]
    if train_seconds is None or agent_seconds is None:
        raise InputError(f"expected the training time of a finished run in {timed.path}, got none")
    return {"budget": "seconds", "seconds": round(train_seconds + agent_seconds, 3)}
