"""The files of a run: where they are, how they are written and read."""

import json
import math
import platform
import shlex
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch

from experiments.monitor import EpochFigures
from experiments.options import DQNOptions, EnvOptions, TrainOptions

CONFIG, METRICS, RESULT = "config.json", "metrics.csv", "result.json"
VIT, AGENT = "vit.safetensors", "agent.zip"

_PACKAGES = ("vit-patch-env", "torch", "torchvision", "gymnasium", "stable-baselines3", "numpy")


class RunFolder:
    """A folder that holds one run.

    Args:
        path: of the folder.

    Attributes:
        path: of the folder.
        vit: the ViT's weights.
        agent: the agent, as Stable-Baselines3 saves it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.vit = self.path / VIT
        self.agent = self.path / AGENT

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
        write_json(self.path / CONFIG, {"options": asdict(options), **provenance()})

    @property
    def options(self) -> TrainOptions:
        """The options that the run was made with.

        Raises:
            ValueError: if the folder holds no run.
        """
        options = self._read_json(CONFIG)["options"]
        return TrainOptions(
            **{
                **options,
                "sb3": tuple(options["sb3"]),
                "env": EnvOptions(**options["env"]),
                "dqn": DQNOptions(**options["dqn"]),
            }
        )

    def append_epoch(self, figures: EpochFigures) -> None:
        """Add a row to `metrics.csv`."""
        path = self.path / METRICS
        row = pd.DataFrame([figures._asdict()])
        row.to_csv(path, mode="a", header=not path.exists(), index=False)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json`, with the configuration's account of command and versions."""
        config = self._read_json(CONFIG)
        del config["options"]
        write_json(self.path / RESULT, {**result, **config})

    def read_result(self) -> dict[str, Any]:
        """What `result.json` holds.

        Raises:
            ValueError: if the run was not finished.
        """
        return self._read_json(RESULT)

    def _files(self) -> list[Path]:
        """Files of a run that are there."""
        names = [self.path / name for name in (CONFIG, METRICS, RESULT, VIT, AGENT)]
        found = [path for path in names if path.exists()]
        return found + sorted(self.path.glob("events.out.tfevents.*"))

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            raise ValueError(f"expected a finished run with {name}, got {self.path}")
        return cast("dict[str, Any]", _parse(path))


def provenance() -> dict[str, Any]:
    """What a figure is written with: the command, the versions and the machine."""
    return {
        "command": shlex.join(["vit-patch", *sys.argv[1:]]),
        "versions": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": f"{processor_name()}, {torch.get_num_threads()} threads",
    }


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


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON in {path}, got: {error}") from error


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON cannot hold, as after a divergence."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
