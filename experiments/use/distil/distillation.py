"""`vit-patch distil`: a smaller data set of a run's images, as a folder of images to train on."""

import shlex
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from vit_patch_env import Selector
from vit_patch_env.checks import ArgumentError, InputError, counted, named
from vit_patch_env.data.datasets import load_dataset
from vit_patch_env.data.downloads import without_downloads
from vit_patch_env.data.layout_plan import PURPOSES
from vit_patch_env.data.splits import ImageData, Split
from vit_patch_env.experiments.options.commands import DistilOptions, TrainOptions
from vit_patch_env.experiments.options.flat import command
from vit_patch_env.experiments.process.output import loaded, print_line
from vit_patch_env.experiments.run_folder.folder import RunFolder, checksum, provenance, write_json
from vit_patch_env.experiments.runs.display import PhaseDisplay
from vit_patch_env.experiments.use.distil.choosing import (
    Advance,
    Counted,
    errors,
    highest,
    observations,
    selector_of,
)
from vit_patch_env.experiments.use.distil.class_folders import folder_names
from vit_patch_env.experiments.use.distil.out_folder import DISTIL, SPLITS, OutFolder
from vit_patch_env.experiments.use.distil.writing import Change, ClassFolders, Written, blanked
from vit_patch_env.experiments.use.loaded_run import LoadedRun
from vit_patch_env.experiments.use.loading import load_run
from vit_patch_env.models.weights.card import WeightsCard
from vit_patch_env.system.shown import listed
from vit_patch_env.system.torch_state import float32_by_default, on_cpu, own_torch_state

_SHARE = 0.5
"""Of the images of each class that are kept, if none is given."""

Masks = list[NDArray[np.bool_]]


class Distillation:
    """Writes a smaller data set: `prepare` loads a run and its images, `run` writes the folder.

    Training images become fewer, or patches of them are blanked. Validation and test images stay as
    they are: the first decide while a ViT is trained, the second measure it.

    Args:
        options: the run, the folder, and what is made smaller.
        console: where it is said what was read and written.
    """

    loaded: LoadedRun
    data: ImageData
    trained: TrainOptions
    selector: Selector

    def __init__(self, options: DistilOptions, console: Console) -> None:
        self.options = options
        self.console = console
        self.out = OutFolder(options.folder, options.overwrite)
        self.display = PhaseDisplay(console)

    def prepare(self) -> None:
        """Check where the folder is written to, and load the run and its images.

        Raises:
            ValueError: as `load_run`; for images that are missing or others, an agent without the
                number of patches, or a folder that exists.
        """
        options = self.options
        if options.by == "patches" and options.share is not None:
            raise ArgumentError(
                "share", f"is for {named('by')} images, got {options.share} with patches"
            )
        folder = RunFolder(options.run)
        folder.check_finished("run")
        self.out.check()
        self.loaded = load_run(
            options.run, model=options.model, weights=options.weights, device=options.device
        )
        self.trained = folder.options
        self.selector = selector_of(
            self.loaded, self.trained.agent, self.trained.actions, options.keep
        )
        self.data = self._images(self.loaded.card)

    def run(self) -> dict[str, Any]:
        """Write the folder, print the shares that are kept, and return them."""
        with self.display:
            return self._run()

    def _run(self) -> dict[str, Any]:
        options, data = self.options, self.data
        masks = self.masks()
        chosen: NDArray[np.bool_] | None = None
        change: Change | None = None
        if options.by == "patches":
            change = self._blanking(masks)
        else:
            share = _SHARE if options.share is None else options.share
            chosen = highest(self.scores(masks), data.train.labels.cpu().numpy(), share)
        names = folder_names(data.classes)
        with self.out.writing() as folder:
            folders = ClassFolders(folder, names, self.loaded.batch_size)
            written = folders.write(
                "train", *data.train, chosen=chosen, change=change,
                advance=self._phase("Writing training images"),
            )  # fmt: skip
            for name in SPLITS[1:]:
                split = getattr(data, name)
                advance = self.display.phase(f"Writing {PURPOSES[name]} images", len(split.labels))
                folders.write(name, *split, advance=advance)
            kept = self._kept(written, masks)
            write_json(folder / DISTIL, self._record(kept, names))
        self._print(written, kept)
        return kept

    def masks(self) -> Masks:
        """The patches that the agent keeps of each training image, (n_patches,) each."""
        images = self.data.train.images
        observed = observations(self.loaded, images, self._phase("Observing images"))
        counted_one = Counted(self.selector, self._phase("Picking patches of images"))
        return self.loaded.masks(observed, counted_one)

    def scores(self, masks: Masks) -> NDArray[np.float64]:
        """How much each training image still teaches, (n_images,): the highest are kept."""
        return errors(self.loaded, *self.data.train, masks, self._phase("Measuring errors"))

    def _phase(self, name: str) -> Advance:
        """Show a phase of all training images."""
        return self.display.phase(name, len(self.data.train.labels))

    def _images(self, card: WeightsCard) -> ImageData:
        """The run's images, at the size that its ViT takes.

        Raises:
            InputError: for images of other classes or channels, or that a folder cannot hold.
        """
        config, options = self.trained.env, self.options
        name = str(config.dataset)

        def load() -> ImageData:
            return load_dataset(
                name,
                data_dir=config.data_dir if options.data_dir is None else options.data_dir,
                image_size=card.image_size,
                train_fraction=config.train_fraction,
                val_fraction=config.val_fraction,
                skip_corrupt=config.skip_corrupt,
                resize=card.resize,
                images=config.images,
                interpolation=card.interpolation,
            )

        # Nothing is written to a folder that a run from elsewhere names.
        named_by_file = options.data_dir is None and config.data_dir is not None
        downloading = without_downloads() if named_by_file else nullcontext()
        with downloading, own_torch_state(), float32_by_default, on_cpu():
            data = loaded(name, load, self.console)
        if tuple(data.classes) != card.classes:
            raise InputError(f"expected the run's classes {[*card.classes]}, got {[*data.classes]}")
        if data.channels != card.channels or data.channels not in (1, 3):
            raise InputError(
                f"expected images of {counted(card.channels, 'channel')}, as the run's, in grey or "
                f"RGB, got {counted(data.channels, 'channel')}"
            )
        for split in SPLITS:
            _check_classes(split, getattr(data, split), data.classes)
        return data

    def _blanking(self, masks: Masks) -> Change:
        """What blanks the patches that are dropped, in the mean colour of the training images.

        Raises:
            ArgumentError: if none are.
        """
        if all(mask.all() for mask in masks):
            raise ArgumentError(
                "keep",
                f"must be given, or {named('by')} images, for an agent that keeps all patches of "
                f"every image at the end of its run, as {self.trained.agent} does here, got "
                f"{self.options.keep}",
            )
        colour = torch.tensor(self.colour, dtype=torch.uint8, device="cpu")
        stacked, grid = np.stack(masks), self.loaded.grid

        def change(images: Tensor, places: slice) -> Tensor:
            return blanked(images, stacked[places], grid, colour)

        return change

    @property
    def colour(self) -> list[int]:
        """The mean colour of the training images, a number in 0...255 per channel."""
        return [round(255 * mean) for mean in self.data.channel_mean]

    def _kept(self, written: Written, masks: Masks) -> dict[str, Any]:
        """The shares of the training images that were kept, and of what."""
        by_patches = self.options.by == "patches"
        n_patches = self.loaded.n_patches
        per_image = float(np.mean([mask.sum() for mask in masks])) if by_patches else n_patches
        n_images = len(masks)
        return {
            "patches": {"share": per_image / n_patches, "of": n_patches},
            "images": {"share": written.n_images / n_images, "of": n_images},
            "bytes": {
                "share": written.n_bytes / written.n_bytes_before,
                "of": written.n_bytes_before,
            },
        }

    def _record(self, kept: dict[str, Any], names: list[str]) -> dict[str, Any]:
        """The content of distil.json."""
        options = self.options
        typed = command("distil", options, DistilOptions(run=options.run, folder=options.folder))
        begin = "vit-patch distil"
        line = f"{begin} {shlex.join([options.run, options.folder])}{typed.removeprefix(begin)}"
        folder = RunFolder(options.run)
        of_run = {
            "run": str(folder.path),
            "agent": self.trained.agent,
            "dataset": self.trained.env.dataset,
            "weights": checksum(folder.weights_file(options.weights)),
        }
        what: dict[str, Any] = {"by": options.by, "kept": kept}
        if options.by == "patches":
            what["colour"] = self.colour
        return {
            **what,
            **of_run,
            "image_size": [*self.data.size],
            "classes": dict(zip(names, self.data.classes, strict=True)),
            **provenance(line),
        }

    def _print(self, written: Written, kept: dict[str, Any]) -> None:
        """Say what was written, and how to train on it."""
        options, data = self.options, self.data
        shares = {name: f"{one['share']:.1%}" for name, one in kept.items()}
        print_line(
            f"Wrote {options.folder}: {counted(written.n_images, 'training image')}, with "
            f"{shares['patches']} of the patches, {shares['images']} of the images and "
            f"{shares['bytes']} of the bytes as PNG files; {len(data.val.labels):,} validation and "
            f"{len(data.test.labels):,} test images as they were.",
            self.console,
        )
        config = self.trained.env
        words = ["--image-size", *map(str, data.size if len({*data.size}) > 1 else data.size[:1])]
        words += ["--patch-size", str(self.loaded.card.patch_size)]
        if not (data.flip if config.flip is None else config.flip):
            words += ["--flip", "False"]
        words = ["vit-patch", "train", "--dataset", "folder", "--data-dir", options.folder, *words]
        print_line(f"Train on it with: {shlex.join(words)}", self.console)


def _check_classes(name: str, split: Split, classes: tuple[str, ...]) -> None:
    """Refuse a split that class folders cannot hold, which must have images of every class."""
    counts = np.bincount(split.labels.cpu().numpy(), minlength=len(classes))
    missing = [classes[label] for label in np.flatnonzero(counts == 0)]
    if missing:
        raise InputError(
            f"expected {PURPOSES[name]} images of every class, as a folder of images has, got none "
            f"of {listed(missing)}"
        )
