"""`vit-patch predict`: the classes that a run's ViT predicts of images."""

import json
import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from vit_patch_env.checks import ArgumentError, counted
from vit_patch_env.data.listing import Folders, walk
from vit_patch_env.data.pictures import SUFFIXES
from vit_patch_env.experiments.options.commands import PredictOptions
from vit_patch_env.experiments.process.output import TextTable, print_table
from vit_patch_env.experiments.use.loaded_run import LoadedRun, Predictions
from vit_patch_env.experiments.use.loading import load_run


class Prediction:
    """Predicts the classes of images: `prepare` loads the run, `run` reads the images.

    Args:
        options: the run and the images.
        console: where the classes are printed.
    """

    loaded: LoadedRun
    pictures: list[str]

    def __init__(self, options: PredictOptions, console: Console) -> None:
        self.options = options
        self.console = console

    def prepare(self) -> None:
        """Find the images, and load the run.

        Raises:
            ValueError: for a path without images, or as `load_run`.
        """
        options = self.options
        self.pictures = [picture for path in options.image for picture in find_pictures(path)]
        self.loaded = load_run(
            options.run, model=options.model, weights=options.weights, device=options.device
        )

    def run(self) -> list[dict[str, Any]]:
        """Print the most probable classes of each image, and return them."""
        options = self.options
        made = self.loaded.predict(self.pictures, options.patches, batch_size=options.batch_size)
        found = self._most_probable(made)
        if options.json:
            content = {"run": options.run, "patches": options.patches, "images": found}
            # Not to the console, which ignores errors: a part of the output is no success.
            sys.stdout.write(json.dumps(content, indent=2) + "\n")
            sys.stdout.flush()
        else:
            self._print(found)
        return found

    def _most_probable(self, made: Predictions) -> list[dict[str, Any]]:
        """The first classes of each image and their probabilities, null after a divergence."""
        top = min(self.options.top, len(self.loaded.classes))
        values, labels = made.probabilities.topk(top, dim=1)
        return [
            {
                "image": picture,
                "classes": [
                    {
                        "class": self.loaded.classes[label],
                        "probability": value if math.isfinite(value) else None,
                    }
                    for value, label in zip(*row, strict=True)
                ],
            }
            for picture, row in zip(
                self.pictures, zip(values.tolist(), labels.tolist(), strict=True), strict=True
            )
        ]

    def _print(self, found: list[dict[str, Any]]) -> None:
        whose = "all patches" if self.options.patches == "all" else "the agent's patches"
        title = f"{counted(len(found), 'image')}, predicted on {whose}"
        table = TextTable(title, ["image", "class"], ["probability"])
        for one in found:
            name = one["image"]
            for place in one["classes"]:
                share = place["probability"]
                table.add_row(name, place["class"], "-" if share is None else f"{share:.1%}")
                name = ""
            table.end_section()
        print_table(table, self.console)


def find_pictures(path: str) -> list[str]:
    """The path of a picture as it is, or those of the pictures in a folder, sorted.

    Raises:
        ArgumentError: if there is nothing, or a folder without pictures.
    """
    if not Path(path).exists():
        raise ArgumentError(
            "image", f"must be a picture or a folder of them, got {path}: there is neither"
        )
    if not Path(path).is_dir():
        return [path]
    found = walk(Folders(SUFFIXES), [path], ()).pictures[path]
    if not found:
        raise ArgumentError("image", f"must be a folder of pictures, got {path} without any")
    return found
