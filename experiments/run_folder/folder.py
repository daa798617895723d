"""The files of a run: their paths, writing and reading."""

import csv
import hashlib
import json
import math
import os
import platform
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from vit_patch_env.arguments import to_json
from vit_patch_env.checks import ArgumentError, InputError, counted, named
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.options.commands import TrainOptions, WeightsName
from vit_patch_env.experiments.options.flat import command
from vit_patch_env.experiments.options.saved import train_options
from vit_patch_env.experiments.run_folder.schemas import (
    CONFIG_FIELDS,
    LARGEST,
    RESULT_FIELDS,
    TRACKED_FIELDS,
    read_checked,
)
from vit_patch_env.experiments.run_folder.tables import (
    METRICS,
    SELECTED,
    STEPS,
    TABLE_BYTES,
    parse_table,
)
from vit_patch_env.reading import open_regular, read_bytes, read_end
from vit_patch_env.system.files import remove_partial, replacing
from vit_patch_env.system.shown import listed

CONFIG, RESULT = "config.json", "result.json"
VIT, BEST_VIT, AGENT = "vit.safetensors", "vit_best.safetensors", "agent.zip"
GIVEN_AGENT, FOLLOWED = "given_agent.zip", "followed"
GIVEN_WEIGHTS = "given_weights.safetensors"
PREDICTIONS, CONFUSION, MISTAKES = "predictions.csv", "confusion.png", "mistakes.png"
TRACKED = "tracked.json"
CHECKPOINTS = "checkpoints"
VIDEO, FRAMES = "video.mp4", "frames"
RUNS = "runs"
LOCK = ".lock"

RESULT_FILES = (CONFIG, METRICS, STEPS, SELECTED, VIT, AGENT)
"""Those that result.json always has checksums of."""

FIGURE_FILES = (PREDICTIONS, CONFUSION, MISTAKES)
"""Those that a run may have, and that `evaluate` writes where they are missing."""

_FILES = (
    CONFIG, METRICS, STEPS, SELECTED, RESULT, VIT, BEST_VIT, AGENT, GIVEN_AGENT, GIVEN_WEIGHTS,
    *FIGURE_FILES, VIDEO, TRACKED,
)  # fmt: skip

_NUMBERS = re.compile(r"\[(\n[^][{}\"]+)\]")
"""A list of numbers in indented JSON: no text begins with a line's end."""

_LOG_BYTES = 64_000
"""Of a log's end, in which its last line is looked for."""

_PACKAGES = ("vit-patch-env", "torch", "torchvision", "gymnasium", "stable-baselines3", "numpy")


class RunFolder:
    """A folder that holds one run.

    Args:
        path: of the folder.

    Attributes:
        path: of the folder.
        vit: the ViT's weights.
        best_vit: its weights after the best epoch, if they are kept.
        given_weights: those that it started from, if not fresh ones.
        agent: the agent, as Stable-Baselines3 saves it.
        log: output of a run in the background.
        checkpoints: folder of an unfinished run's checkpoints.
        video: of the run, if there is one.
        frames: folder of its pictures until the run is finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.vit = self.path / VIT
        self.best_vit = self.path / BEST_VIT
        self.given_weights = self.path / GIVEN_WEIGHTS
        self.agent = self.path / AGENT
        self.log = self.path / "log.txt"
        self.checkpoints = self.path / CHECKPOINTS
        self.video = self.path / VIDEO
        self.frames = self.path / FRAMES

    def check_free(self) -> None:
        """Refuse a folder that holds a run.

        Raises:
            ValueError: if it holds one.
        """
        held = self._files()
        if held:
            unfinished = "" if self.is_finished else f", resume it ({named('resume')} {self.path})"
            raise ArgumentError(
                "out",
                f"must be a folder without a run, got {self.path}, which holds "
                f"{held[0].name}: choose another{unfinished}, or add {named('overwrite')}",
            )

    def check_finished(self, name: str) -> None:
        """Refuse a folder without a finished run.

        Args:
            name: of the option that gives the path.

        Raises:
            ArgumentError: saying what is missing.
        """
        expected = "the folder of a finished run"
        check_holds(self.path, CONFIG, name, expected)
        check_holds(self.path, RESULT, name, expected)

    def weights_file(self, weights: WeightsName) -> Path:
        """The file of a finished run's weights.

        Raises:
            ArgumentError: for those of the best epoch, if they were not kept.
        """
        if weights == "best" and not self.best_vit.is_file():
            raise ArgumentError("weights", f"must be newest for a run without {BEST_VIT}, got best")
        return self.best_vit if weights == "best" else self.vit

    def lock(self) -> FileLock:
        """Lock the folder against other processes; it is created if it does not exist.

        Returns:
            The lock, to be released; the system does so if the process dies.

        Raises:
            ValueError: if another process holds the lock, or the folder cannot be created.
        """
        return lock_folder(self.path, "out")

    def remove_unused(self) -> None:
        """Remove the locked folder if nothing but its lock is in it."""
        with suppress(OSError):  # it is in nobody's way
            if [one.name for one in self.path.iterdir()] == [LOCK]:
                (self.path / LOCK).unlink()
                self.path.rmdir()

    def create(self, options: TrainOptions, compiled_attention: bool | None) -> None:
        """Remove any run from the locked folder and write `config.json`.

        Args:
            options: of the run.
            compiled_attention: whether its attention is that of the compiled kernel, whose results
                differ in the last bits; None where there is none, as on CUDA.

        Raises:
            ValueError: if a link would lead out of the folder.
        """
        try:
            extensions = self.extensions
        except InputError:  # there is no run, or a damaged one
            extensions = []
        own = (self._subfolder(name) for name in (FOLLOWED, FRAMES))
        kept = [*own, *map(self._kept_results, extensions)]
        self.prepare()
        # First, as a run with a result counts as finished.
        (self.path / RESULT).unlink(missing_ok=True)
        checkpoints = CheckpointFolder(self.checkpoints)
        checkpoints.clear()
        if checkpoints.files:
            raise InputError(
                f"expected a folder without checkpoints, got {checkpoints.files[0]}, which cannot "
                "be removed"
            )
        for file in self._files():
            file.unlink()
        for folder in kept:
            if folder.exists():
                shutil.rmtree(folder)
        self._write_config(options, compiled_attention, [])

    def _write_config(
        self,
        options: TrainOptions,
        compiled_attention: bool | None,
        extensions: list[dict[str, Any]],
    ) -> None:
        write_json(
            self.path / CONFIG,
            {
                "options": to_json(options),
                "compiled_attention": compiled_attention,
                **({"extensions": extensions} if extensions else {}),
                **provenance(command("train", options, TrainOptions(), self._to_type(options))),
            },
        )

    def _to_type(self, options: TrainOptions) -> tuple[str, ...]:
        """Names of values that a command must give even if they are the usual ones."""
        of_weights = ("interpolation",) if options.env.starts_from_weights else ()
        return (*({"observation"} & set(options.given)), *of_weights)

    def extend(self, options: TrainOptions, extension: dict[str, Any]) -> Path | None:
        """Make the folder that of an unfinished, longer run.

        Args:
            options: of the longer run.
            extension: to be recorded: option, its values, and the step that is resumed from.

        Returns:
            The folder in which the results of the run are kept; None if it was not finished.
        """
        recorded, kept = [*self.extensions, extension], None
        if self.is_finished:
            kept = self._kept_results(extension)
            kept.mkdir(exist_ok=True)
            for file in (*self._result_files, RESULT):
                with replacing(kept / file) as partial:
                    shutil.copyfile(self.path / file, partial)
            (self.path / RESULT).unlink()  # first, as a run with a result counts as finished
        self._write_config(options, self.compiled_attention, recorded)
        if kept is not None and self.video.exists():  # not of the longer run
            self.video.replace(kept / VIDEO)
        return kept

    @property
    def former_videos(self) -> list[Path]:
        """The videos of the run before each of its extensions, if it had one."""
        videos = [self._kept_results(one) / VIDEO for one in self.extensions]
        return [path for path in videos if path.is_file()]

    def write_own(self, contents: Mapping[str, bytes]) -> None:
        """Write files that the run needs, by their paths in the folder.

        Raises:
            OSError: if one cannot be written.
        """
        for name, content in contents.items():
            path = self.path / name
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as partial:
                partial.write_bytes(content)

    def _subfolder(self, name: str) -> Path:
        """A folder in this one, which may not exist yet.

        Raises:
            InputError: if it is something else, such as a link.
        """
        path = self.path / name
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            got = "a link" if path.is_symlink() else "a file"
            raise InputError(f"expected a folder or nothing in {path}, got {got}")
        return path

    def _kept_results(self, extension: Mapping[str, Any]) -> Path:
        """The folder for the results of the run before it was extended: 20_epochs."""
        return self._subfolder(f"{extension['before']}_{extension['name']}")

    @property
    def extensions(self) -> list[dict[str, Any]]:
        """How it was extended: `{"name": "epochs", "before": 20, "after": 40, "step": 140}`, ..."""
        return list(self._read_json(CONFIG).get("extensions", []))

    def prepare(self) -> None:
        """Remove temporary files that killed processes left in the locked folder."""
        CheckpointFolder(self.checkpoints).remove_partial()
        if self._subfolder(FRAMES).is_dir():
            remove_partial(self.frames)
        remove_partial(self.path)

    def write(self, path: Path, content: Callable[[Path], None]) -> None:
        """Let a function write a file of the folder, which replaces an existing one."""
        try:
            with replacing(path) as partial:
                content(partial)
        except SafetensorError as error:  # safetensors raises it for any error in writing
            raise OSError(str(error)) from error

    @property
    def options(self) -> TrainOptions:
        """The options of the run.

        Raises:
            ValueError: if the folder holds no run.
        """
        try:
            return train_options(self._read_json(CONFIG)["options"])
        except ValueError as error:
            raise InputError(
                f"expected this version's options in {self.path / CONFIG}, got: {error}"
            ) from error

    def with_saved_agent(self, trained: TrainOptions) -> TrainOptions:
        """A run's options with the agent that the folder holds.

        One that repeats another run's numbers of patches has them in its own folder as well.
        """
        follow = None if trained.follow is None else str(self.path)
        return replace(trained, agent=str(self.agent), follow=follow)

    @property
    def compiled_attention(self) -> bool | None:
        """Whether the run's attention is that of the compiled kernel; None if it is not known."""
        recorded: bool | None = self._read_json(CONFIG).get("compiled_attention")
        return recorded

    @property
    def tracked(self) -> dict[str, str]:
        """The run's ids in trackers, by their names."""
        path = self.path / TRACKED
        return read_checked(path, TRACKED_FIELDS) if path.is_file() else {}

    def write_tracked(self, ids: Mapping[str, str]) -> None:
        """Write `tracked.json`: the run's ids in trackers, by their names."""
        write_json(self.path / TRACKED, dict(ids))

    def read_steps(self) -> list[int]:
        """Patches selected in each step of the run.

        Raises:
            ValueError: if the run was not finished, or the file is damaged.
        """
        self.read_result()
        path, expected = self.path / STEPS, "n_selected of each step"
        content = read_bytes(path, TABLE_BYTES, expected)
        try:
            counts = parse_table(content, ["n_selected"])["n_selected"]
        except InputError as error:
            raise InputError(f"expected {expected} in {path}, got: {error}") from error
        if not counts.between(1, LARGEST).all():
            raise InputError(f"expected {expected} in {path}, got numbers below 1 or none")
        return [int(count) for count in counts]

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json`, with checksums and the configuration's command and versions."""
        config = self._read_json(CONFIG)
        del config["options"]
        files = {name: checksum(self.path / name) for name in self._result_files}
        # Written last, as a run with a result counts as finished.
        write_json(self.path / RESULT, {**result, **config, "files": files})

    def check_files(self, *names: str) -> None:
        """Compare files with their checksums in `result.json`.

        Raises:
            ValueError: naming the first one that is missing or differs.
        """
        digests = self.read_result()["files"]
        unknown = [name for name in digests if name not in _FILES]
        if unknown:
            raise InputError(
                f"{self.path}: damaged: {RESULT} has a checksum of {listed(unknown)}, which no run "
                "has"
            )
        without = []
        for name in names:
            path = self.path / name
            if not path.is_file():
                raise InputError(f"expected a finished run with {name}, got {self.path}")
            if name not in digests:
                without.append(name)
            elif checksum(path) != digests[name]:
                raise wrong_checksum(path)
        if without:
            warnings.warn(
                f"{self.path} is of an older version, without a checksum of {', '.join(without)}",
                stacklevel=2,
            )

    def read_result(self) -> dict[str, Any]:
        """Content of `result.json`.

        Raises:
            ValueError: if the run was not finished.
        """
        return self._read_json(RESULT)

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished."""
        return (self.path / RESULT).exists()

    @property
    def holds_run(self) -> bool:
        """Whether the folder holds a run, finished or not."""
        return (self.path / CONFIG).is_file()

    def progress(self) -> float:
        """Share of its budget that the run had used at the end of its last epoch, in [0, 1]."""
        try:
            # Up to the last line's end: a line may be half-written.
            text = read_bytes(self.path / METRICS, TABLE_BYTES, "metrics").decode()
            lines = text.rpartition("\n")[0].splitlines()
            progress = float(list(csv.DictReader(lines))[-1]["progress"])
        except (csv.Error, IndexError, KeyError, TypeError, ValueError):
            return 0.0  # no epoch yet, or the file is being removed
        return progress if 0 <= progress <= 1 else 0.0

    @property
    def _result_files(self) -> tuple[str, ...]:
        """The files of a finished run that have checksums."""
        possible = (BEST_VIT, *FIGURE_FILES)
        return (*RESULT_FILES, *(name for name in possible if (self.path / name).is_file()))

    def _files(self) -> list[Path]:
        """Existing files of a run."""
        names = [self.path / name for name in _FILES]
        found = [path for path in names if path.exists() or path.is_symlink()]
        return found + sorted(self.path.glob("events.out.tfevents.*"))

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            raise InputError(f"expected a finished run with {name}, got {self.path}")
        return read_checked(path, CONFIG_FIELDS if name == CONFIG else RESULT_FIELDS)


def check_holds(path: Path, file: str, name: str, expected: str) -> None:
    """Refuse a folder that does not exist or does not hold a file.

    Args:
        path: of the folder.
        file: that must be in it.
        name: of the option that gives the path.
        expected: what the folder must be, in words.

    Raises:
        ArgumentError: saying what is missing.
    """
    if (path / file).is_file():
        return
    missing = f"there is no {file} in it" if path.is_dir() else "it is not a folder"
    missing = missing if os.path.lexists(path) else "there is no such folder"
    raise ArgumentError(name, f"must be {expected}, got {path}: {missing}")


def check_possible(path: Path, name: str) -> None:
    """Refuse a path that cannot be a folder that is written to; nothing is created.

    Args:
        path: of the folder.
        name: of the option that gives the path.

    Raises:
        ArgumentError: if it, or what it is in, is a file or cannot be written to.
    """
    try:
        existing = next(one for one in (path, *path.absolute().parents) if os.path.lexists(one))
        reason = "" if existing.is_dir() else f"{existing} is not a folder"
        if not (reason or os.access(existing, os.W_OK | os.X_OK)):
            reason = f"{existing} cannot be written to"
    except OSError as error:  # such as a name that is too long
        reason = str(error.strerror)
    if reason:
        raise ArgumentError(name, f"must be a folder, got {path}: {reason}")


def lock_folder(path: Path, name: str, timeout: float = 0) -> FileLock:
    """Create a folder and lock it against other processes.

    Args:
        path: of the folder.
        name: of the option that gives the path.
        timeout: how long to wait for the lock, in seconds.

    Raises:
        ValueError: if another process holds the lock, or the folder cannot be created.
    """
    if (path / LOCK).is_symlink():
        raise ArgumentError(
            name, f"must be a folder whose lock is not a link, got the link {path / LOCK}"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK)
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise ArgumentError(
            name, f"must be a folder that no other process is using, got {path}"
        ) from error
    except OSError as error:
        raise ArgumentError(name, f"must be a folder, got {path}: {error.strerror}") from error
    return lock


@contextmanager
def releasing_on_error(lock: FileLock) -> Iterator[None]:
    """Release a lock if the block, which prepares what needs it, does not end."""
    try:
        yield
    except BaseException:
        lock.release()
        raise


def how_it_failed(exitcode: int, log: Path) -> str:
    """Why a process has failed, in one line: the last one of its log, if it was not killed.

    Args:
        exitcode: its exit status, negative for a signal.
        log: its output.
    """
    if exitcode < 0:
        return f"killed by signal {-exitcode}"
    lines = read_end(log, _LOG_BYTES).decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last or f"exit status {exitcode}"


def wrong_checksum(path: Path) -> InputError:
    """What to raise for a file of a run that differs from its checksum in `result.json`."""
    return InputError(f"{path.parent}: damaged: {path.name} differs from its checksum in {RESULT}")


def checksum(path: Path) -> str:
    """SHA-256 of a regular file, hexadecimal.

    Raises:
        ValueError: if it cannot be read.
    """
    with open_regular(path, math.inf, "a file") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance(command_line: str | None = None) -> dict[str, Any]:
    """The command, by default the current one, the versions and the machine of a result."""
    n_threads = torch.get_num_threads()
    return {
        "command": command_line or shlex.join(["vit-patch", *sys.argv[1:]]),
        "versions": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": f"{processor_name()}, {counted(n_threads, 'thread')}",
    }


def processor_name() -> str:
    """The processor's name."""
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())


def device_name(device: torch.device) -> str:
    """The device's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON, with null for NaN and infinity, and lists of numbers in one line."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    with replacing(path) as partial:
        # Bytes in names that are not UTF-8 become \udcff, as in JSON.
        partial.write_text(text + "\n", encoding="utf-8", errors="backslashreplace", newline="\n")


def _finite(value: Any) -> Any:
    """The value with None for NaN and infinity, which occur after a divergence."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
