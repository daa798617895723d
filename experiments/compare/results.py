"""What a comparison left in its folder, read back and checked; nothing is trained."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typeguard
from numpy.typing import NDArray

from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.runs.folder import (
    CONFIG,
    RESULT,
    RunFolder,
    checksum,
    options_from_json,
    read_json,
)
from vit_patch_env.experiments.runs.tables import METRICS, SELECTED, STEPS

COMPARE = "compare.json"

METHOD_KEYS = frozenset(
    {"model", "keep_rate", "observation", "reward", "n_patches_desired", "data_dir", "device"}
)
"""Values of the environment in which the runs of one comparison may differ."""

FULL = "simple_vit"
"""All patches. Its training time is the others' budget where no number of seconds was given."""

METRICS_COLUMNS = (
    "epoch", "train_loss", "val_loss", "val_accuracy", "n_selected", "reward", "epsilon",
    "images_per_second", "train_seconds", "agent_seconds", "flops",
)  # fmt: skip
_FIGURES = dict.fromkeys(
    ("train_seconds", "agent_seconds", "flops", "n_selected_mean", "n_steps", "peak_memory_bytes"),
    float | None,
)
RESULT_TYPES = {
    **_FIGURES, "test": dict[str, dict[str, float | None]], "diverged": bool, "device_name": str,
    "precision": str, "machine": str, "files": dict[str, str],
}  # fmt: skip
COMPARE_TYPES = {"methods": list[str], "seeds": list[int], "env": dict[str, Any]}
TEST_FIELDS = ("loss", "accuracy", "precision", "recall", "f1")


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        path: its folder, `<method>__<seed>`.
        method: its name in compare.json.
        seed: of the ViT, its data and the agent.
        config: what config.json holds.
        result: what result.json holds.
        epochs: metrics.csv, a row per epoch.
        n_selected: (n_steps,) patches selected at each training step.
        selected: (n_epochs, n_patches) share of an epoch's steps that selected each patch.
    """

    path: Path
    method: str
    seed: int
    config: dict[str, Any]
    result: dict[str, Any]
    epochs: pd.DataFrame
    n_selected: NDArray[np.float64]
    selected: NDArray[np.float64]

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite, so that the run ended early."""
        return bool(self.result["diverged"])

    @property
    def seconds(self) -> float:
        """Training time: the ViT's and the agent's, evaluation apart."""
        return self.figure("train_seconds") + self.figure("agent_seconds")

    @property
    def n_patches(self) -> float:
        """Patches trained on per step, on average; PatchDropout drops its own per image."""
        env, given = self.config["options"]["env"], self.figure("n_selected_mean")
        dropped = env.get("model") == "patch_dropout" and env.get("keep_rate")
        return given * float(env["keep_rate"]) if dropped else given

    @property
    def epoch_seconds(self) -> NDArray[np.float64]:
        """(n_epochs,) training time up to the end of each epoch, agent included."""
        return cumulated(self.epochs["train_seconds"] + self.epochs["agent_seconds"])

    @property
    def epoch_flops(self) -> NDArray[np.float64]:
        """(n_epochs,) training FLOPs up to the end of each epoch."""
        return cumulated(self.epochs["flops"])

    @property
    def progress(self) -> NDArray[np.float64]:
        """(n_epochs,) share of the budget used at the end of each epoch, in (0, 1]."""
        if "progress" in self.epochs:
            return self.epochs["progress"].to_numpy(dtype=np.float64)
        return np.arange(1, len(self.epochs) + 1) / len(self.epochs)  # before there were others

    @property
    def val_accuracy(self) -> NDArray[np.float64]:
        """(n_epochs,) after each epoch, on all patches."""
        return self.epochs["val_accuracy"].to_numpy(dtype=np.float64)

    def figure(self, name: str) -> float:
        """A number of result.json; not a number where it holds null."""
        return _number(self.result[name])

    def test(self, name: str, patches: str = "all_patches") -> float:
        """A test figure, on `all_patches` or `agent_patches`."""
        return _number(self.result["test"][patches][name])


@dataclass(frozen=True)
class Comparison:
    """A comparison's folder: what was asked for, and what is there.

    Attributes:
        folder: that holds compare.json and runs/.
        content: what compare.json holds.
        runs: the finished runs of its configuration, by method and seed in compare.json's order.
        problems: a line for each folder that was left out: damaged, of another configuration.
        unfinished: names of the runs without result.json, and of those never begun.
    """

    folder: Path
    content: dict[str, Any]
    runs: dict[tuple[str, int], RunResult]
    problems: tuple[str, ...]
    unfinished: tuple[str, ...]

    @property
    def env(self) -> dict[str, Any]:
        """Values of the environment that all runs share."""
        return complete_env(self.content["env"])

    @property
    def budget(self) -> str:
        """What every run may use as much of: `epochs`, `flops` or `seconds`."""
        return str(self.env["budget"])

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch; told where the budget is not epochs."""
        return int(self.content["images"]["train"]) // int(self.env["batch_size"])

    @property
    def methods(self) -> list[str]:
        """Methods with a finished run, in compare.json's order."""
        return list(dict.fromkeys(method for method, _ in self.runs))

    @property
    def seeds(self) -> list[int]:
        """Seeds that were asked for."""
        return list(self.content["seeds"])

    def title(self, method: str) -> str:
        """What a method is called."""
        return str(self.content.get("titles", {}).get(method, method))

    def group(self, method: str) -> str:
        """`paper`, `agent`, `rule` or `rival`."""
        return str(self.content.get("groups", {}).get(method, "rival"))

    def sound_runs(self, method: str) -> list[RunResult]:
        """Its finished runs that did not diverge."""
        return [run for run in self.finished_runs(method) if not run.diverged]

    def finished_runs(self, method: str) -> list[RunResult]:
        """Its finished runs, with those that diverged."""
        return [run for (name, _), run in self.runs.items() if name == method]


def read_comparison(folder: str | Path) -> Comparison:
    """The comparison in a folder; runs that cannot be trusted are named, never mixed in.

    Raises:
        ValueError: without compare.json, or if it cannot be read.
    """
    folder = Path(folder)
    if not (folder / COMPARE).is_file():
        raise ValueError(
            f"expected a folder that vit-patch compare wrote, with {COMPARE}, got {folder}"
        )
    content = _read_json(folder / COMPARE)
    _require_types(content, COMPARE_TYPES, folder / COMPARE)
    for name in content["methods"]:
        if not re.fullmatch(r"\w+", name):  # it is part of a folder's name
            raise ValueError(f"{folder}: damaged: expected names of methods, got {name!r}")
    try:
        options_from_json(EnvConfig, content["env"])
    except TypeError as error:
        raise ValueError(f"{folder}: damaged: env in {COMPARE}: {error}") from error
    if complete_env(content["env"])["budget"] != "epochs":
        _require_types(content, {"images": dict[str, Any]}, folder / COMPARE)
    runs: dict[tuple[str, int], RunResult] = {}
    problems, unfinished = [], []
    asked = [(method, seed) for method in content["methods"] for seed in content["seeds"]]
    for method, seed in asked:
        path = folder / "runs" / f"{method}__{seed}"
        if not RunFolder(path).is_finished:
            unfinished.append(path.name)
            continue
        try:
            check_run(path, content["env"])
            runs[method, seed] = read_run(path)
        except ValueError as error:
            problems.append(" ".join(str(error).split()))
    known = {f"{method}__{seed}" for method, seed in asked}
    problems += [
        f"{path}: not in {COMPARE}, by method or seed"
        for path in sorted((folder / "runs").glob("*"))
        if path.is_dir() and path.name not in known
    ]
    return Comparison(folder, content, runs, tuple(problems), tuple(unfinished))


def check_run(folder: Path, expected_env: Mapping[str, Any]) -> None:
    """Refuse a run that was made with other values than the comparison's.

    Args:
        folder: of the run, `<method>__<seed>`; finished or not.
        expected_env: the environment's values; those in `METHOD_KEYS` may differ.

    Raises:
        ValueError: naming the folder and the values that differ, if config.json is damaged, or if
            the run's seconds are those of another, which is not finished.
    """
    options = _read_config(folder)["options"]
    method, seed = _parse_name(folder)
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
        raise ValueError(f"{folder}: another configuration: {'; '.join(differing)}")


def read_run(path: Path) -> RunResult:
    """A finished run.

    Raises:
        ValueError: naming the folder, if it is not finished or damaged: JSON that cannot be
            parsed, missing fields, a table that is not the one the result was written with,
            another number of epochs than asked for, or a budget that is not used up.
    """
    config, result = _read_config(path), _read_json(path / RESULT)
    env = complete_env(config["options"]["env"])
    _require_types(result, RESULT_TYPES, path / RESULT)
    for patches in ("all_patches", "agent_patches"):
        _require(result["test"], (patches,), path / RESULT)
        _require(result["test"][patches], TEST_FIELDS, path / RESULT)
    tables = {
        name: _read_table(path / name, result["files"]) for name in (METRICS, STEPS, SELECTED)
    }
    _require(tables[METRICS], METRICS_COLUMNS, path / METRICS)
    _require(tables[STEPS], ("n_selected",), path / STEPS)
    if not result["diverged"]:
        _check_length(path / METRICS, tables[METRICS], env)
    method, seed = _parse_name(path)
    return RunResult(
        path, method, seed, config, result,
        tables[METRICS],
        tables[STEPS]["n_selected"].to_numpy(dtype=np.float64),
        tables[SELECTED].drop(columns="epoch", errors="ignore").to_numpy(dtype=np.float64),
    )  # fmt: skip


def complete_env(env: Mapping[str, Any]) -> dict[str, Any]:
    """The environment's values, with the defaults of those that are newer than the file."""
    return {**asdict(EnvConfig()), **env}


def is_timed(env: Mapping[str, Any]) -> bool:
    """Whether each run of a comparison may take as long as SimpleViT64's of the same seed."""
    return env["budget"] == "seconds" and env["seconds"] is None


def timed_budget(timed: RunFolder | None) -> dict[str, Any]:
    """Values of a run's environment in such a comparison.

    Args:
        timed: the finished run whose time this one may take; None if it is that run.

    Raises:
        ValueError: if that run is not finished.
    """
    if timed is None:
        return {"budget": "epochs", "seconds": None}
    result = timed.read_result()
    return {
        "budget": "seconds",
        "seconds": round(result["train_seconds"] + result["agent_seconds"], 3),
    }


def cumulated(values: "pd.Series[float]") -> NDArray[np.float64]:
    """Running sum; what is not a number counts as nothing."""
    return np.nancumsum(values.to_numpy(dtype=np.float64))


def _parse_name(path: Path) -> tuple[str, int]:
    """Method and seed of a run's folder."""
    method, _, seed = path.name.rpartition("__")
    if not method or not seed.isdecimal():
        raise ValueError(f"expected a run folder <method>__<seed>, got {path}")
    return method, int(seed)


def _read_config(folder: Path) -> dict[str, Any]:
    config = _read_json(folder / CONFIG)
    _require(config, ("options",), folder / CONFIG)
    _require(config["options"], ("env", "seed"), folder / CONFIG)
    _require(config["options"]["env"], ("epochs",), folder / CONFIG)
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.parent}: damaged: {path.name} cannot be read: {error}") from error


def _read_table(path: Path, digests: Mapping[str, str]) -> pd.DataFrame:
    try:
        if checksum(path) != digests.get(path.name):
            raise ValueError(f"it is not the file that {RESULT} was written with")
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.parent}: damaged: {path.name} cannot be read: {error}") from error


def _check_length(path: Path, metrics: pd.DataFrame, env: Mapping[str, Any]) -> None:
    """Refuse the epochs of a run that did not use up its budget."""
    if env["budget"] == "epochs":
        expected, got = f"{env['epochs']} epochs", str(len(metrics))
        complete = len(metrics) == env["epochs"]
    else:
        _require(metrics, ("progress",), path)
        used = metrics["progress"].max()
        expected, got, complete = "a budget used up", f"{used:.0%} of it", used >= 1
    if not complete:
        raise ValueError(f"{path.parent}: damaged: expected {expected} in {path.name}, got {got}")


def _require(content: Any, fields: tuple[str, ...], path: Path) -> None:
    """Refuse what is not a mapping with these fields."""
    mapping = isinstance(content, dict | pd.DataFrame)
    missing = [name for name in fields if name not in content] if mapping else list(fields)
    if missing or not mapping:
        raise ValueError(
            f"{path.parent}: damaged: expected {', '.join(missing) or 'an object'} in {path.name}"
        )


def _require_types(content: Any, types: Mapping[str, Any], path: Path) -> None:
    """Refuse what is not a mapping with fields of these types."""
    _require(content, tuple(types), path)
    for name, hint in types.items():
        try:
            typeguard.check_type(content[name], hint)
        except typeguard.TypeCheckError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path.parent}: damaged: {name} in {path.name}: {reason}") from error


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
