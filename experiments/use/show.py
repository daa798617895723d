"""`vit-patch show`: the patches that a run's agent keeps of images, and what its ViT predicts."""

import os
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import Tensor

from vit_patch_env.checks import ArgumentError, counted, named
from vit_patch_env.data.pictures import SUFFIXES
from vit_patch_env.experiments.options.commands import ShowOptions
from vit_patch_env.experiments.process.output import print_line
from vit_patch_env.experiments.run_folder.folder import check_possible
from vit_patch_env.experiments.use.loaded_run import LoadedRun
from vit_patch_env.experiments.use.loading import load_run
from vit_patch_env.experiments.use.predict import find_pictures
from vit_patch_env.pictures.kept import Chances, KeptPatches, draw_kept
from vit_patch_env.system.files import replacing


class Show:
    """Draws the patches that an agent keeps: `prepare` loads the run, `run` draws each image.

    Args:
        options: the run, the images and the folder of the pictures.
        console: where it is said what was written.
    """

    loaded: LoadedRun
    files: dict[str, Path]

    def __init__(self, options: ShowOptions, console: Console) -> None:
        self.options = options
        self.console = console

    def prepare(self) -> None:
        """Find the images, check the folder, and load the run.

        Raises:
            ValueError: for a path without images, a picture that exists, an image whose name is
                too long for a picture's, a folder that is named like one, or as `load_run`.
        """
        options = self.options
        images = [picture for path in options.image for picture in find_pictures(path)]
        out = Path(options.out)
        check_possible(out, "out")
        if out.suffix.lower() in SUFFIXES and not out.exists():
            raise ArgumentError(
                "out", f"must be a folder, which gets a picture of each image, got {out}"
            )
        self.files = _files(images, out)
        _check_names(self.files, out)
        inputs = {Path(image).resolve() for image in images}
        drawn_over = next((one for one in self.files.values() if one.resolve() in inputs), None)
        if drawn_over is not None:
            raise ArgumentError(
                "out", f"must be another folder than that of {drawn_over}, got {out}"
            )
        existing = next((one for one in self.files.values() if one.exists()), None)
        if existing is not None and not options.overwrite:
            raise ArgumentError(
                "out", f"must be without {existing.name}, got {out}: add {named('overwrite')}"
            )
        self.loaded = load_run(
            options.run, model=options.model, weights=options.weights, device=options.device
        )
        if self.loaded.agent is None:
            raise ArgumentError(
                "run", f"must be the folder of a run, which has an agent, got {options.run}"
            )

    def run(self) -> list[Path]:
        """Draw every image; the paths of the pictures."""
        from PIL import Image

        Path(self.options.out).mkdir(parents=True, exist_ok=True)
        for image, file in self.files.items():
            picture = draw_kept(kept_patches(self.loaded, image, self.options.top))
            with replacing(file) as partial:
                Image.fromarray(picture).save(partial, "PNG")
        n_files = counted(len(self.files), "picture")
        print_line(f"Wrote {n_files} to {self.options.out}.", self.console)
        return list(self.files.values())


def kept_patches(loaded: LoadedRun, image: str, top: int) -> KeptPatches:
    """What a run makes of an image.

    Args:
        loaded: the run.
        image: path of the picture, which is a batch by itself.
        top: most probable classes that are shown.

    Raises:
        InputError: for a picture that cannot be read.
    """
    pixels = loaded.preprocess.pixels(image)
    batch = loaded.normalize(pixels[None].to(loaded.device))
    keep = loaded.select(batch)
    patch_mask = np.ones(loaded.n_patches, dtype=np.bool_)
    if keep is not None:
        patch_mask[:] = False
        patch_mask[keep.cpu().numpy()] = True
    observes = not loaded.observation.startswith("none")
    return KeptPatches(
        title=Path(image).name,
        image=pixels.numpy(),
        patch_mask=patch_mask,
        grid=loaded.grid,
        with_all=_most_probable(loaded, loaded.logits(batch), top),
        with_kept=_most_probable(loaded, loaded.logits(batch, keep), top),
        values=loaded.observe(batch) if observes else None,
        observation=loaded.observation if observes else "Nothing is observed",
    )


def _most_probable(loaded: LoadedRun, logits: Tensor, top: int) -> Chances:
    """The most probable classes."""
    n_shown = min(top, len(loaded.classes))
    shares, labels = logits[0].softmax(dim=0).topk(n_shown)
    names = [loaded.classes[label] for label in labels.tolist()]
    return list(zip(names, shares.tolist(), strict=True))


def _files(images: list[str], out: Path) -> dict[str, Path]:
    """The picture of each image: its name, with a number where two have the same."""
    files: dict[str, Path] = {}
    taken: set[str] = set()
    for image in images:
        stem = name = Path(image).stem
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        files[image] = out / f"{name}.png"
    return files


def _check_names(files: dict[str, Path], out: Path) -> None:
    """Refuse images whose pictures would have names that are too long for the file system.

    Raises:
        ArgumentError: naming the first one.
    """
    existing = next(one for one in (out, *out.absolute().parents) if one.exists())
    longest = os.pathconf(existing, "PC_NAME_MAX")
    for image, file in files.items():
        n_bytes = len(os.fsencode(file.name))
        if n_bytes > longest:
            raise ArgumentError(
                "image",
                f"must have a name that leaves room for a picture's, of at most {longest} bytes "
                f"with {file.suffix}, got {image}: {n_bytes} bytes",
            )
