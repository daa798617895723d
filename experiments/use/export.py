"""`vit-patch export`: a run's ViT in a file that other programs load."""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from vit_patch_env.checks import ArgumentError, InputError, InputWarning, counted, named
from vit_patch_env.experiments.options.commands import ExportOptions
from vit_patch_env.experiments.process.output import print_line
from vit_patch_env.experiments.run_folder.folder import (
    BEST_VIT,
    GIVEN_WEIGHTS,
    VIT,
    RunFolder,
    check_possible,
)
from vit_patch_env.experiments.use.exported import Exported, Format
from vit_patch_env.experiments.use.formats import example, format_of
from vit_patch_env.experiments.use.library_formats import HF_FILES
from vit_patch_env.experiments.use.loading import load_run
from vit_patch_env.system.torch_state import own_torch_state

TOLERANCE = 1e-4
"""Of logits, by which what was written may differ from the ViT, relative to the largest of them.

Kernels that sum in another order differ by far less."""

WEIGHTS_FILES = (VIT, BEST_VIT, GIVEN_WEIGHTS)
"""Of a run's folder, in which nothing is replaced."""

_N_CHECKED = (1, 3)
"""Numbers of images that what was written is run on."""


class Export:
    """Writes a run's ViT for other programs: `prepare` loads it, `run` writes and checks it.

    Args:
        options: the run, the format and the path.
        console: where it is said what was written.
    """

    exported: Exported
    format: Format
    path: Path

    def __init__(self, options: ExportOptions, console: Console) -> None:
        self.options = options
        self.console = console

    def prepare(self) -> None:
        """Load the ViT, and check where it is written to.

        Raises:
            ValueError: as `load_run`, for a format that the model does not have or whose packages
                are missing, or an output that exists.
        """
        options = self.options
        loaded = load_run(options.run, model=options.model, weights=options.weights, device="cpu")
        self.exported = Exported(loaded.model, loaded.card, options.model)
        self.format = format_of(options.format, loaded.card)
        if options.out is None:
            raise ArgumentError("out", "must be given, the path to write to, got None")
        self.path = Path(options.out)
        self._check_free()
        check_possible(self.path.parent, "out")

    def run(self) -> Path:
        """Write the ViT, and run what was written before it gets its name; its path."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.path.parent, prefix=".vit-patch-export-") as folder:
            written = Path(folder) / self.path.name
            difference = self._write(written)
            if self.path.is_dir():
                shutil.rmtree(self.path)
            written.replace(self.path)
        print_line(
            f"Wrote {self.path}; its logits of {counted(_N_CHECKED[-1], 'image')} differ from the "
            f"ViT's by at most {difference:.1g}, relative to the largest if that is above 1.",
            self.console,
        )
        return self.path

    def _check_free(self) -> None:
        """Refuse an output that exists, or is a run's, or has another suffix than its format."""
        path, suffix = self.path, self.format.suffix
        if path.name in WEIGHTS_FILES and RunFolder(path.parent).holds_run:
            raise ArgumentError("out", f"must not be a file of a run, got {path}")
        if path.is_symlink():
            raise ArgumentError("out", f"must be no link, got {path}")
        if path.suffix != suffix and suffix:
            raise ArgumentError("out", f"must end in {suffix} for this format, got {path}")
        if path.is_dir() and (suffix or not {one.name for one in path.iterdir()} <= HF_FILES):
            got = "a folder" if suffix else "a folder with other files"
            raise ArgumentError("out", f"must be what can be replaced, got {path}: {got}")
        if (path.exists() or path.is_symlink()) and not self.options.overwrite:
            raise ArgumentError("out", f"must be new, got {path}: add {named('overwrite')}")

    def _write(self, path: Path) -> float:
        """Write the format; the largest difference of its logits to the ViT's.

        Raises:
            InputError: if the exporter does not take the model, or the logits are others.
        """
        try:
            with own_torch_state(gradients=False), _quiet():
                self.format.write(self.exported, path)
                return self._difference(path)
        except (OSError, MemoryError, InputError):
            raise
        except Exception as error:  # exporters raise anything for code that they do not take
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ArgumentError(
                "format",
                f"must be one that {self.exported.card.model} can be exported to, got "
                f"{self.options.format}: {reason}",
            ) from error

    def _difference(self, path: Path) -> float:
        """The largest difference of logits between what was written and the ViT.

        Raises:
            InputError: if it is larger than `TOLERANCE`.
        """
        logits = self.format.run(self.exported, path)
        differences = []
        for n_images in _N_CHECKED:
            images = example(self.exported.card, n_images)
            expected: Any = self.exported.model(images)
            scale = expected.abs().max().clamp(min=1.0)
            differences.append((logits(images) - expected).abs().max() / scale)
        largest = float(torch.stack(differences).max())  # NaN if there is one
        if not largest <= TOLERANCE:
            raise InputError(
                f"expected logits as the ViT's from {self.options.format}, got a difference of "
                f"{largest:.1g}: nothing is written"
            )
        return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, exporters do not warn of their own parts; this package's warnings stay."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", InputWarning)
        yield
