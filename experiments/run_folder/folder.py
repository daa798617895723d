"""The files of a run: where they are, how they are written and read."""

import csv
import hashlib
import json
import math
import platform
import shlex
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.options.flat import command
from vit_patch_env.experiments.options.saved import train_options
from vit_patch_env.experiments.run_folder.tables import METRICS, SELECTED, STEPS
from vit_patch_env.system.files import remove_partial, replacing

CONFIG, RESULT = "config.json", "result.json"
VIT, AGENT = "vit.safetensors", "agent.zip"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"

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
        checkpoints: of a run that is not finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.vit = self.path / VIT
        self.agent = self.path / AGENT
        self.log = self.path / "log.txt"
        self.checkpoints = self.path / CHECKPOINTS

    def check_free(self) -> None:
        """Refuse a folder that holds a run.

        Raises:
            ValueError: if it holds one.
        """
        held = self._files()
        if held:
            unfinished = "" if self.is_finished else f", resume it (--resume {self.path})"
            raise ArgumentError(
                "out",
                f"must be a folder without a run, got {self.path}, which holds "
                f"{held[0].name}: choose another{unfinished}, or add --overwrite",
            )

    def lock(self) -> FileLock:
        """Keep other processes from running in this folder, which is made if it is not there.

        Returns:
            The lock, to be released; the system does it where the process dies.

        Raises:
            ValueError: if another process runs there, or the folder cannot be made.
        """
        return lock_folder(self.path, "out")

    def create(self, options: TrainOptions) -> None:
        """Remove the run that the locked folder may hold, write `config.json`.

        Raises:
            ValueError: if a link would lead out of the folder.
        """
        self.prepare()
        (self.path / RESULT).unlink(missing_ok=True)  # first: without it, no run is finished
        CheckpointFolder(self.checkpoints).clear()
        for file in self._files():
            file.unlink()
        write_json(
            self.path / CONFIG,
            {"options": asdict(options), **provenance(command("train", options, TrainOptions()))},
        )

    def prepare(self) -> None:
        """Remove what processes that died had begun to write in the locked folder."""
        CheckpointFolder(self.checkpoints).remove_partial()
        remove_partial(self.path)

    def write(self, path: Path, content: Callable[[Path], None]) -> None:
        """Let a function write a file of the folder, in the place of what is there."""
        try:
            with replacing(path) as partial:
                content(partial)
        except SafetensorError as error:  # which is what it makes of an error in writing
            raise OSError(str(error)) from error

    @property
    def options(self) -> TrainOptions:
        """The options that the run was made with.

        Raises:
            ValueError: if the folder holds no run.
        """
        try:
            return train_options(self._read_json(CONFIG)["options"])
        except (KeyError, ArgumentError) as error:
            raise ValueError(
                f"expected this version's options in {self.path / CONFIG}, got: {error}"
            ) from error

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
        names = (METRICS, STEPS, SELECTED, VIT, AGENT)
        files = {name: checksum(self.path / name) for name in names}
        # Last of all, so that a run counts as finished only when it is.
        write_json(self.path / RESULT, {**result, **config, "files": files})

    def check_files(self, *names: str) -> None:
        """Refuse files that are not those that the result was written with.

        Raises:
            ValueError: naming the first one.
        """
        digests = self.read_result().get("files")
        for name in names:
            path = self.path / name
            if not path.is_file():
                raise ValueError(f"expected a finished run with {name}, got {self.path}")
            if isinstance(digests, dict) and name not in digests:
                warnings.warn(
                    f"{self.path} is of an older version, without a checksum of {name}",
                    stacklevel=2,
                )
            elif not isinstance(digests, dict) or checksum(path) != digests[name]:
                raise ValueError(
                    f"expected {name} as {RESULT} was written with, got another in {self.path}"
                )

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

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun there."""
        return (self.path / CONFIG).is_file()

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
        found = [path for path in names if path.exists() or path.is_symlink()]
        return found + sorted(self.path.glob("events.out.tfevents.*"))

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            raise ValueError(f"expected a finished run with {name}, got {self.path}")
        return read_json(path)


def lock_folder(path: Path, name: str) -> FileLock:
    """Make a folder, and keep other processes from working in it.

    Args:
        path: of the folder.
        name: of the option that it comes from.

    Raises:
        ValueError: if another process works there, or the folder cannot be made.
    """
    if (path / LOCK).is_symlink():
        raise ArgumentError(
            name, f"must be a folder with a lock of its own, got the link {path / LOCK}"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ArgumentError(
            name, f"must be a folder that no other process is at work in, got {path}"
        ) from error
    except OSError as error:
        raise ArgumentError(name, f"must be a folder, got {path}: {error.strerror}") from error
    return lock


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def provenance(used: str | None = None) -> dict[str, Any]:
    """What a figure is written with: the command, by default this one, versions and machine."""
    n_threads = torch.get_num_threads()
    return {
        "command": used or shlex.join(["vit-patch", *sys.argv[1:]]),
        "versions": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": f"{processor_name()}, {n_threads} thread{'s' * (n_threads > 1)}",
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
    with replacing(path) as partial:
        partial.write_text(text + "\n")


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
