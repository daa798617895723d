"""The result of one run, read from its folder and checked."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vit_patch_env.arguments import to_json
from vit_patch_env.checks import ArgumentError, InputError, counted
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.options.saved import train_options
from vit_patch_env.experiments.run_folder.folder import CONFIG, RESULT, wrong_checksum
from vit_patch_env.experiments.run_folder.schemas import (
    CONFIG_FIELDS,
    LARGEST,
    RESULT_FIELDS,
    read_checked,
)
from vit_patch_env.experiments.run_folder.tables import (
    METRICS,
    SELECTED,
    STEPS,
    TABLE_BYTES,
    parse_table,
)
from vit_patch_env.reading import read_bytes

METRICS_COLUMNS = (
    "epoch", "train_loss", "val_loss", "val_accuracy", "n_selected", "reward", "epsilon",
    "images_per_second", "train_seconds", "agent_seconds", "flops",
)  # fmt: skip

_AMOUNTS = ("n_selected", "train_seconds", "agent_seconds", "flops", "progress")
"""Columns of metrics.csv that are summed or compared."""


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
        n_selected: (n_steps,) patches selected at each training step; empty if it was not read.
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

    @property
    def slow_share(self) -> float:
        """Share of the time that is due to slow steps, in [0, 1]; NaN if it was not measured."""
        return _number(self.result.get("slow_share"))

    @property
    def waiting_share(self) -> float:
        """Share of the time that threads waited for a CPU, in [0, 1]; NaN if it is not known."""
        return _number(self.result.get("waiting_share"))

    @property
    def n_patches_on_test(self) -> float:
        """Mean number of patches that the agent picks on test images; NaN in older files."""
        return _number(self.result["test"].get("n_selected_mean"))

    def metric(self, name: str) -> float:
        """A number of result.json; NaN for null."""
        return _number(self.result[name])

    def test_metric(self, name: str, patches: str = "all_patches") -> float:
        """A test metric on `all_patches` or `agent_patches`; NaN for null."""
        return _number(self.result["test"][patches][name])


def read_run(path: Path, *, with_steps: bool = True) -> RunResult:
    """A finished run.

    Args:
        path: its folder.
        with_steps: whether to read what each step selected, which a report over tasks needs not.

    Raises:
        ValueError: naming the folder, if the run is not finished or damaged: a file that cannot be
            parsed, missing fields, a file with another checksum than in result.json, another
            number of epochs than requested, or a budget that is not used up. The configuration of
            runs of older versions has no checksum.
    """
    config, result = read_config(path), read_checked(path / RESULT, RESULT_FIELDS)
    if CONFIG in result["files"]:
        _content(path / CONFIG, result["files"])
    options = _options(path, config)
    expected_columns: dict[str, Sequence[str]] = {METRICS: METRICS_COLUMNS, SELECTED: ()}
    if with_steps:
        expected_columns[STEPS] = ("n_selected",)
    tables = {
        name: _read_table(path / name, result["files"], columns)
        for name, columns in expected_columns.items()
    }
    if not with_steps:
        tables[STEPS] = pd.DataFrame({"n_selected": np.zeros(0)})
    if not result["diverged"]:
        _check_budget_used(path / METRICS, tables[METRICS], options.env)
    _check_values(path, tables)
    selected = tables[SELECTED].drop(columns="epoch", errors="ignore").to_numpy(dtype=np.float64)
    expected = (len(tables[METRICS]), options.env.n_patches)
    if selected.shape != expected:
        raise InputError(
            f"{path}: damaged: expected {expected[0]} epochs and {expected[1]} patches in "
            f"{SELECTED}, got {selected.shape[0]} and {selected.shape[1]}"
        )
    method, seed = parse_name(path)
    return RunResult(
        path, method, seed, config, result, tables[METRICS],
        tables[STEPS]["n_selected"].to_numpy(dtype=np.float64), selected,
    )  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    """Content of a run's config.json.

    Raises:
        ValueError: if it is damaged.
    """
    return read_checked(folder / CONFIG, CONFIG_FIELDS)


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


def _options(path: Path, config: dict[str, Any]) -> TrainOptions:
    try:
        return train_options(config["options"])
    except ArgumentError as error:
        raise InputError(f"{path}: damaged: options in {CONFIG}: {error}") from error


def _content(path: Path, checksums: Mapping[str, str]) -> bytes:
    """The content of a file with its checksum in result.json."""
    try:
        content = read_bytes(path, TABLE_BYTES, path.name)
    except InputError as error:
        raise InputError(f"{path.parent}: damaged: {path.name} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != checksums.get(path.name):
        raise wrong_checksum(path)
    return content


def _read_table(path: Path, checksums: Mapping[str, str], columns: Sequence[str]) -> pd.DataFrame:
    content = _content(path, checksums)
    try:
        return parse_table(content, columns)
    except InputError as error:
        raise InputError(f"{path.parent}: damaged: {path.name} cannot be read: {error}") from error


def _check_values(path: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Refuse numbers that no run has. NaN stands for what was not measured."""
    metrics, patches = tables[METRICS], tables[SELECTED].drop(columns="epoch", errors="ignore")
    for table, names, largest in (
        (METRICS, [name for name in _AMOUNTS if name in metrics], LARGEST),
        (METRICS, ["val_accuracy"], 1.0), (STEPS, ["n_selected"], LARGEST),
        (SELECTED, list(patches), 1.0),
    ):  # fmt: skip
        values = tables[table][names].to_numpy(dtype=np.float64)
        wrong = (values < 0) | (values > largest)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InputError(
                f"{path}: damaged: expected {names[column]} in [0, {largest:g}] in {table}, "
                f"got {values[row, column]:g}"
            )
    if tables[STEPS]["n_selected"].isna().any() or not len(metrics):
        raise InputError(f"{path}: damaged: expected epochs and steps, got some without numbers")


def _check_budget_used(path: Path, metrics: pd.DataFrame, env: EnvConfig) -> None:
    """Refuse the epochs of a run that did not use up its budget."""
    if env.budget == "epochs":
        expected, got = counted(env.epochs, "epoch"), str(len(metrics))
        complete = len(metrics) == env.epochs
    else:
        if "progress" not in metrics:
            raise InputError(f"{path.parent}: damaged: expected progress in {path.name}")
        used = metrics["progress"].max()
        expected, got, complete = "a budget used up", f"{used:.0%} of it", used >= 1
    if not complete:
        raise InputError(f"{path.parent}: damaged: expected {expected} in {path.name}, got {got}")


def _cumulative(values: "pd.Series[float]") -> NDArray[np.float64]:
    """Cumulative sum; NaN counts as 0."""
    return np.nancumsum(values.to_numpy(dtype=np.float64))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
