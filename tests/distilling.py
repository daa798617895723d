"""`python -m tests.distilling`: fresh ViTs on distilled data sets, as the table of docs/distil.md.

For each seed a run with the paper's agent on `digits` is distilled in both ways, and fresh ViTs of
that seed are trained on the result for as many steps, with all patches: beside all images, images
with as many patches of each blanked at random, and a random subset with as many images of each
class. All of them are tested on the same images. What is finished is not done again.
"""

import argparse
import contextlib
import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

from vit_patch_env.experiments.cli import main as vit_patch
from vit_patch_env.experiments.options.commands import DistilOptions
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.experiments.use.distil.distillation import Distillation

SEEDS = (0, 1, 2)
SHARE = 0.25
EPOCHS = 15
"""On all images; on fewer, as many more as make the same number of steps."""

RECIPE = [
    "--dim", "32", "--depth", "2", "--heads", "2", "--dim-head", "16", "--mlp-dim", "64",
    "--batch-size", "64", "--optimizer", "adamw", "--learning-rate", "0.002",
    "--schedule", "cosine", "--precision", "fp32", "--device", "cpu",
]  # fmt: skip


class AtRandom(Distillation):
    """Keeps as many patches of each image as the agent, or as many images of each class, at random.

    Attributes:
        rng: to choose with.
    """

    rng: np.random.Generator

    def masks(self) -> Any:
        """Random masks with the agent's numbers of patches."""
        return [self.rng.permutation(mask) for mask in super().masks()]

    def scores(self, masks: Any) -> Any:
        """Random scores."""
        return self.rng.random(len(masks))


class Way(NamedTuple):
    """A data set that fresh ViTs are trained on."""

    title: str
    kind: type[Distillation]
    values: dict[str, Any]

    @property
    def share(self) -> float:
        """Of the images."""
        return float(self.values.get("share", 1.0))


WAYS = {
    "all": Way("all images", Distillation, {"by": "images", "share": 1.0}),
    "patches": Way("patches that the agent drops blanked", Distillation, {"by": "patches"}),
    "random_patches": Way("as many patches blanked at random", AtRandom, {"by": "patches"}),
    "images": Way("images with the largest errors", Distillation, {"by": "images", "share": SHARE}),
    "random_images": Way("as many images at random", AtRandom, {"by": "images", "share": SHARE}),
}


def train(out: Path, *options: str) -> None:
    """Train a run, unless its folder holds a finished one."""
    if not RunFolder(out).is_finished:
        quietly(lambda: vit_patch(["train", *RECIPE, *options, "--out", str(out), "--overwrite"]))


def quietly(function: Callable[[], Any]) -> None:
    """Call a function without its output."""
    with contextlib.redirect_stdout(io.StringIO()):
        function()


def distil(way: Way, run: Path, out: Path, seed: int) -> None:
    """Distil a run, unless it has been."""
    if (out / "distil.json").exists():
        return
    options = DistilOptions(run=str(run), folder=str(out), **way.values)
    command = way.kind(options, Console(file=io.StringIO()))
    if isinstance(command, AtRandom):
        command.rng = np.random.default_rng(seed)
    command.prepare()
    command.run()


def accuracy(run: Path) -> float:
    """Test accuracy on all patches, in percent."""
    return 100 * float(RunFolder(run).read_result()["test"]["all_patches"]["accuracy"])


def spread(values: list[float], digits: int = 1) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser("python -m tests.distilling", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/distilling"), help="of runs")
    root = parser.parse_args().out
    torch.set_num_threads(1)
    shares: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    accuracies: dict[str, list[float]] = {name: [] for name in WAYS}
    for seed in SEEDS:
        source = root / f"source_{seed}"
        train(source, "--agent", "paper", "--epochs", str(EPOCHS), "--seed", str(seed))
        for name, way in WAYS.items():
            images, run = root / f"images_{name}_{seed}", root / f"{name}_{seed}"
            distil(way, source, images, seed)
            train(
                run, "--dataset", "folder", "--data-dir", str(images), "--flip", "False",
                "--agent", "all", "--epochs", str(round(EPOCHS / way.share)), "--seed", str(seed),
            )  # fmt: skip
            shares[name].append(json.loads((images / "distil.json").read_text())["kept"])
            accuracies[name].append(accuracy(run))
            print(f"seed {seed}, {way.title}: {accuracies[name][-1]:.1f} %", flush=True)
    print("| fresh ViTs on | patches | images | bytes | test accuracy, % |")
    print("| --- |" + " ---: |" * 4)
    for name, way in WAYS.items():
        kept = (
            f"{100 * statistics.mean(one[what]['share'] for one in shares[name]):.0f} %"
            for what in ("patches", "images", "bytes")
        )
        print(f"| {way.title} |", " | ".join((*kept, spread(accuracies[name]))), "|")


if __name__ == "__main__":
    main()
