"""The files of a run: where they are, how they are written and read."""

import csv
import hashlib
import json
import math
import platform
import shlex
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from experiments.monitor import EpochFigures
from experiments.options import DQNOptions, EnvOptions, PretrainOptions, TrainOptions

CONFIG, METRICS, RESULT = "config.json", "metrics.csv", "result.json"
STEPS, SELECTED = "steps.csv", "selected.csv"
VIT, AGENT = "vit.safetensors", "agent.zip"

_FILES = (CONFIG, METRICS, STEPS, SELECTED, RESULT, VIT, AGENT)
_PACKAGES = ("vit-patch-env", "torch", "torchvision", "gymnasium", "stable-baselines3", "numpy")


class RunFolder:
    """A folder that holds one run.

    Args:
        path: of the folder.

    Attributes:
        path: of the folder.
        vit: the ViT's weights.
        agent: the agent, as Stable-Baselines3 saves it.
        log: what a run in the background printed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.vit = self.path / VIT
        self.agent = self.path / AGENT
        self.log = self.path / "log.txt"

    def check_free(self) -> None:
        """Refuse a folder that holds a run.

        Raises:
            ValueError: if it holds one.
        """
        held = self._files()
        if held:
            raise ValueError(
                f"out must be a folder without a run, got {self.path}, which holds "
                f"{held[0].name}: choose another, or add --overwrite"
            )

    def create(self, options: TrainOptions) -> None:
        """Make the folder, remove the run that it may hold, write `config.json`.

        Raises:
            ValueError: if the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"out must be a folder, got {self.path}: {error.strerror}") from error
        for file in self._files():
            file.unlink()
        write_json(
            self.path / CONFIG, {"options": asdict(options), **provenance(command_line(options))}
        )

    @property
    def options(self) -> TrainOptions:
        """The options that the run was made with.

        Raises:
            ValueError: if the folder holds no run.
        """
        try:
            options = self._read_json(CONFIG)["options"]
            return TrainOptions(
                **{
                    **options,
                    "sb3": tuple(options["sb3"]),
                    "env": EnvOptions(**options["env"]),
                    "dqn": DQNOptions(**options["dqn"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"expected this version's options in {self.path / CONFIG}, got: {error}"
            ) from error

    def append_epoch(
        self, figures: EpochFigures, selected: NDArray[np.float64], n_selected: list[int]
    ) -> None:
        """Add an epoch to `metrics.csv`, `selected.csv` and `steps.csv`.

        Args:
            figures: of the epoch.
            selected: share of its steps in which each patch was selected, (n_patches,).
            n_selected: patches selected in each of its steps.
        """
        self._append(METRICS, pd.DataFrame([figures._asdict()]))
        shares = pd.DataFrame([selected.round(4)])
        shares.insert(0, "epoch", figures.epoch)
        self._append(SELECTED, shares)
        self._append(STEPS, pd.DataFrame({"n_selected": n_selected}))

    def read_steps(self) -> list[int]:
        """Patches selected in each step of the run.

        Raises:
            ValueError: if the run was not finished, or the file is damaged.
        """
        self.read_result()
        path = self.path / STEPS
        try:
            return [int(count) for count in pd.read_csv(path)["n_selected"]]
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"expected n_selected of each step in {path}, got: {error}") from error

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json`, with checksums and the configuration's command and versions."""
        config = self._read_json(CONFIG)
        del config["options"]
        files = {name: checksum(self.path / name) for name in (METRICS, STEPS, SELECTED)}
        # Renamed last, so that a run counts as finished only when it is.
        path = self.path / RESULT
        unfinished = path.with_suffix(".part")
        write_json(unfinished, {**result, **config, "files": files})
        unfinished.replace(path)

    def _append(self, name: str, rows: pd.DataFrame) -> None:
        path = self.path / name
        rows.to_csv(path, mode="a", header=not path.exists(), index=False)

    def read_result(self) -> dict[str, Any]:
        """What `result.json` holds.

        Raises:
            ValueError: if the run was not finished.
        """
        return self._read_json(RESULT)

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / RESULT).exists()

    def progress(self) -> float:
        """Share of its budget that the run had used at the end of its last epoch, in [0, 1]."""
        try:
            # Up to the last line's end: a line may be half-written.
            lines = (self.path / METRICS).read_text().rpartition("\n")[0].splitlines()
            return float(list(csv.DictReader(lines))[-1]["progress"])
        except (OSError, IndexError, KeyError, TypeError, ValueError):
            return 0.0  # no epoch yet, or the file is just being removed

    def log_end(self) -> str:
        """The last line of the run's log."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _files(self) -> list[Path]:
        """Files of a run that are there."""
        names = [self.path / name for name in _FILES]
        found = [path for path in names if path.exists()]
        return found + sorted(self.path.glob("events.out.tfevents.*"))

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            raise ValueError(f"expected a finished run with {name}, got {self.path}")
        return read_json(path)


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def provenance(command: str | None = None) -> dict[str, Any]:
    """What a figure is written with: the command, by default this one, versions and machine."""
    n_threads = torch.get_num_threads()
    return {
        "command": command or shlex.join(["vit-patch", *sys.argv[1:]]),
        "versions": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": f"{processor_name()}, {n_threads} thread{'s' * (n_threads > 1)}",
    }


def command_line(options: TrainOptions) -> str:
    """The command that asks for these options, without the values that are defaults."""
    words = ["vit-patch", "train", *option_words(options, TrainOptions(), without=("env", "dqn"))]
    words += option_words(options.env, EnvOptions())
    return shlex.join(words + option_words(options.dqn, DQNOptions(), prefix="dqn."))


def pretrain_command(options: PretrainOptions) -> str:
    """The command that asks for these options, without the values that are defaults."""
    default = PretrainOptions()
    words = ["vit-patch", "pretrain", *option_words(options, default, without=("env", "dqn"))]
    words += option_words(options.env, default.env)
    return shlex.join(words + option_words(options.dqn, default.dqn, prefix="dqn."))


def option_words(
    given: Any, default: Any, prefix: str = "", without: tuple[str, ...] = ()
) -> list[str]:
    """The words of a command line that set the values in which two dataclasses differ."""
    words: list[str] = []
    for name, value in vars(given).items():
        usual = getattr(default, name)
        if value == usual or name in without:
            continue
        words.append(f"--{prefix}{name}".replace("_", "-"))
        if not (value is True and usual is False):
            words += map(str, value if isinstance(value, tuple) else (value,))
    return words


def processor_name() -> str:
    """The processor as a person knows it."""
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())


def device_name(device: torch.device) -> str:
    """The device as a person knows it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON, with null for numbers that JSON does not have."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: if it holds none.
    """
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected JSON in {path}, got: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object in {path}, got {type(content).__name__}")
    return content


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON cannot hold, as after a divergence."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
