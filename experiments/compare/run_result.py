"""The result of one run, read from its folder and checked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from vit_patch_env.arguments import to_json
from vit_patch_env.checks import InputError, counted, shown
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.run_folder.folder import CONFIG, RESULT, checksum, read_json
from vit_patch_env.experiments.run_folder.tables import METRICS, SELECTED, STEPS

METRICS_COLUMNS = (
    "epoch", "train_loss", "val_loss", "val_accuracy", "n_selected", "reward", "epsilon",
    "images_per_second", "train_seconds", "agent_seconds", "flops",
)  # fmt: skip


class _EnvFields(TypedDict):
    epochs: Any


class _OptionFields(TypedDict):
    env: _EnvFields
    seed: Any


class _ConfigFields(TypedDict):
    """Required fields of config.json."""

    options: _OptionFields


class _TestMetrics(TypedDict):
    loss: float | None
    accuracy: float | None
    precision: float | None
    recall: float | None
    f1: float | None


class _TestFields(TypedDict):
    all_patches: _TestMetrics
    agent_patches: _TestMetrics


class _ResultFields(TypedDict):
    """Required fields of result.json; numbers that are NaN or infinite are null."""

    test: _TestFields
    train_seconds: float | None
    agent_seconds: float | None
    flops: float | None
    n_selected_mean: float | None
    n_steps: float | None
    peak_memory_bytes: float | None
    diverged: bool
    device_name: str
    precision: str
    machine: str
    files: dict[str, str]


_CONFIG, _RESULT = TypeAdapter(_ConfigFields), TypeAdapter(_ResultFields)


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        path: its folder, `<method>__<seed>`.
        method: its name in compare.json.
        seed: of the ViT, its data and the agent.
        config: content of config.json.
        result: content of result.json.
        epochs: content of metrics.csv, one row per epoch.
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
        """Whether a loss was not finite, which ends a run early."""
        return bool(self.result["diverged"])

    @property
    def seconds(self) -> float:
        """Training time of the ViT and the agent in seconds, excluding evaluation."""
        return self.metric("train_seconds") + self.metric("agent_seconds")

    @property
    def n_patches(self) -> float:
        """Mean number of patches per training step; PatchDropout drops patches in the model."""
        env, given = self.config["options"]["env"], self.metric("n_selected_mean")
        drops = env.get("model") == "patch_dropout" and env.get("keep_rate")
        return given * float(env["keep_rate"]) if drops else given

    @property
    def epoch_seconds(self) -> NDArray[np.float64]:
        """(n_epochs,) training time in seconds up to the end of each epoch, agent included."""
        return _cumulative(self.epochs["train_seconds"] + self.epochs["agent_seconds"])

    @property
    def epoch_flops(self) -> NDArray[np.float64]:
        """(n_epochs,) training FLOPs up to the end of each epoch."""
        return _cumulative(self.epochs["flops"])

    @property
    def progress(self) -> NDArray[np.float64]:
        """(n_epochs,) share of the budget used at the end of each epoch, in (0, 1]."""
        if "progress" in self.epochs:
            return self.epochs["progress"].to_numpy(dtype=np.float64)
        # Files written before there were other budgets than epochs.
        return np.arange(1, len(self.epochs) + 1) / len(self.epochs)

    @property
    def val_accuracy(self) -> NDArray[np.float64]:
        """(n_epochs,) validation accuracy on all patches after each epoch."""
        return self.epochs["val_accuracy"].to_numpy(dtype=np.float64)

    def metric(self, name: str) -> float:
        """A number of result.json; NaN for null."""
        return _number(self.result[name])

    def test_metric(self, name: str, patches: str = "all_patches") -> float:
        """A test metric on `all_patches` or `agent_patches`; NaN for null."""
        return _number(self.result["test"][patches][name])


def read_run(path: Path) -> RunResult:
    """A finished run.

    Raises:
        ValueError: naming the folder, if the run is not finished or damaged: a file that cannot be
            parsed, missing fields, a table with another checksum than in result.json, another
            number of epochs than requested, or a budget that is not used up.
    """
    config, result = read_config(path), read_checked(path / RESULT, _RESULT)
    env = complete_env(config["options"]["env"])
    tables = {
        name: _read_table(path / name, result["files"]) for name in (METRICS, STEPS, SELECTED)
    }
    _require_columns(path / METRICS, tables[METRICS], METRICS_COLUMNS)
    _require_columns(path / STEPS, tables[STEPS], ("n_selected",))
    if not result["diverged"]:
        _check_budget_used(path / METRICS, tables[METRICS], env)
    method, seed = parse_name(path)
    return RunResult(
        path, method, seed, config, result,
        tables[METRICS],
        tables[STEPS]["n_selected"].to_numpy(dtype=np.float64),
        tables[SELECTED].drop(columns="epoch", errors="ignore").to_numpy(dtype=np.float64),
    )  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    """Content of a run's config.json.

    Raises:
        ValueError: if it is damaged.
    """
    return read_checked(folder / CONFIG, _CONFIG)


def read_checked(path: Path, fields: TypeAdapter[Any]) -> dict[str, Any]:
    """The object in a JSON file, which must have these fields and may have more.

    Raises:
        ValueError: "<folder>: damaged: expected f1 in result.json".
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path.parent}: damaged: {path.name} cannot be read: {error}") from error
    try:
        fields.validate_python(content, strict=True)
    except ValidationError as error:
        missing = [str(one["loc"][-1]) for one in error.errors() if one["type"] == "missing"]
        if missing:
            problem = f"expected {', '.join(missing)} in {path.name}"
        else:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            problem = f"{name} in {path.name}: {first['msg']}, got {shown(first['input'])}"
        raise InputError(f"{path.parent}: damaged: {problem}") from error
    return content


def complete_env(env: Mapping[str, Any]) -> dict[str, Any]:
    """The environment's values, with defaults for arguments that are newer than the file."""
    return {**to_json(EnvConfig()), **env}


def parse_name(path: Path) -> tuple[str, int]:
    """Method and seed of a run's folder.

    Raises:
        ValueError: for a folder with another name than `<method>__<seed>`.
    """
    method, _, seed = path.name.rpartition("__")
    if not method or not seed.isdecimal():
        raise InputError(f"expected a run folder <method>__<seed>, got {path}")
    return method, int(seed)


def _read_table(path: Path, checksums: Mapping[str, str]) -> pd.DataFrame:
    try:
        if checksum(path) != checksums.get(path.name):
            raise InputError(f"its checksum is not that in {RESULT}")
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path.parent}: damaged: {path.name} cannot be read: {error}") from error


def _require_columns(path: Path, table: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        raise InputError(f"{path.parent}: damaged: expected {', '.join(missing)} in {path.name}")


def _check_budget_used(path: Path, metrics: pd.DataFrame, env: Mapping[str, Any]) -> None:
    """Refuse the epochs of a run that did not use up its budget."""
    if env["budget"] == "epochs":
        expected, got = counted(env["epochs"], "epoch"), str(len(metrics))
        complete = len(metrics) == env["epochs"]
    else:
        _require_columns(path, metrics, ("progress",))
        used = metrics["progress"].max()
        expected, got, complete = "a budget used up", f"{used:.0%} of it", used >= 1
    if not complete:
        raise InputError(f"{path.parent}: damaged: expected {expected} in {path.name}, got {got}")


def _cumulative(values: "pd.Series[float]") -> NDArray[np.float64]:
    """Cumulative sum; NaN counts as 0."""
    return np.nancumsum(values.to_numpy(dtype=np.float64))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
