"""`vit-patch evaluate`: a run's test metrics, computed again without executing code from files."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from stable_baselines3.common.base_class import BaseAlgorithm

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.checks import ArgumentError, InputError, named
from vit_patch_env.data.downloads import without_downloads
from vit_patch_env.experiments.agents_by_name.factory import check_agent, make_agent
from vit_patch_env.experiments.figures.display import show_figures
from vit_patch_env.experiments.figures.files import draw_pictures, figure_files, write_figures
from vit_patch_env.experiments.figures.numbers import Evaluations
from vit_patch_env.experiments.options.commands import ActionsName, EvaluateOptions, TrainOptions
from vit_patch_env.experiments.process.output import loaded, print_line
from vit_patch_env.experiments.run_folder.folder import (
    AGENT,
    CONFIG,
    FIGURE_FILES,
    PREDICTIONS,
    RunFolder,
    check_possible,
    lock_folder,
)
from vit_patch_env.experiments.runs.display import show_result
from vit_patch_env.experiments.runs.environment import evaluate_on_test, make_env
from vit_patch_env.experiments.runs.loaded_model import load_weights, model_of_run
from vit_patch_env.models.weights.card import read_card
from vit_patch_env.system.shown import listed
from vit_patch_env.training.precision import resolve_device


class Evaluation:
    """A finished run, which `prepare` loads and `run` evaluates.

    Args:
        options: the run, and its images' folder and device if they have changed.
        console: to print what was read and the metrics to.
    """

    folder: RunFolder
    env: ViTPatchSelectEnv
    agent: BaseAlgorithm
    actions: ActionsName

    def __init__(self, options: EvaluateOptions, console: Console) -> None:
        self.options = options
        self.console = console

    def prepare(self) -> None:
        """Load the run.

        Raises:
            ValueError: if the folder holds no finished run or a damaged one, its images are
                missing, or the figures cannot be written to `out`.
        """
        folder = self.folder = RunFolder(self.options.run)
        folder.check_finished("run")
        self._check_out()
        weights = folder.weights_file(self.options.weights)
        folder.check_files(CONFIG, weights.name, AGENT)
        trained = folder.options
        name, card = str(trained.env.model), read_card(weights)
        with model_of_run(name, self.options.model, card, weights) as model:
            self._load(folder, replace(trained, env=replace(trained.env, model=model)))
        load_weights(self.env.episode.model, weights)

    def _load(self, folder: RunFolder, trained: TrainOptions) -> None:
        """Load the images and the agent, and make a model with fresh weights."""
        result = folder.read_result()
        env = replace(
            trained.env,
            data_dir=self.options.data_dir or trained.env.data_dir,
            device=self.options.device or trained.env.device,
            # What only training needs: the saved weights are the average, and the code of a loss
            # is not executed.
            ema=None,
            loss=None,
            compile=False,
            # The run's own are loaded.
            pretrained=False,
            weights=None,
            new_head=False,
        )
        if env.precision == "fp16" and resolve_device(env.device).type == "cpu":
            print_line("Evaluated in fp32, as there is no fp16 on a CPU.", self.console)
            env = replace(env, precision="fp32")
        self.env = make_env(env)
        saved = folder.with_saved_agent(trained)
        check_agent(saved, self.env)
        # Nothing is written to a folder that a run from elsewhere names.
        named_by_file = self.options.data_dir is None and env.data_dir is not None
        with without_downloads() if named_by_file else nullcontext():
            data = loaded(env.dataset, lambda: self.env.data, self.console)
        classes = list(data.classes)
        if classes != result.get("classes"):
            raise InputError(f"expected the run's classes {result.get('classes')}, got {classes}")
        self.env.reset(seed=trained.seed)
        self.actions = trained.actions
        self.agent = make_agent(saved, self.env)

    def run(self) -> dict[str, Any]:
        """Evaluate on the test images, write the figures' files and print metrics and figures."""
        tested = evaluate_on_test(self.env, "running", self.agent, self.actions)
        self._write(tested)
        result = tested.result()
        show_result(result, self.console)
        classes = self.env.data.classes
        show_figures(tested, classes, self.console, all_classes=self.options.all_classes)
        return result

    def _check_out(self) -> None:
        """Refuse a folder that cannot be written to, or that holds such files already."""
        if self.options.out is None:
            return
        out = Path(self.options.out)
        check_possible(out, "out")
        held = [name for name in FIGURE_FILES if os.path.lexists(out / name)]
        if held and not self.options.overwrite:
            raise ArgumentError(
                "out",
                f"must be a folder without {held[0]}, got {out}: choose another, or add "
                f"{named('overwrite')}",
            )

    def _write(self, tested: Evaluations) -> None:
        """Write the figures' files to `out`, or those that are missing to the run's folder.

        Raises:
            OSError: if they cannot be written to `out`. A run's folder may be read-only.
        """
        names = figure_files(self.env.data)
        if self.options.out is not None:
            folder = RunFolder(self.options.out)
            folder.path.mkdir(parents=True, exist_ok=True)
            self._write_to(folder, names, tested)
        # A run's files are of the weights at its end, and of its own images.
        elif self.options.weights == "newest" and self.options.data_dir is None:
            missing = [name for name in names if not os.path.lexists(self.folder.path / name)]
            try:
                if missing:
                    with lock_folder(self.folder.path, "run"):
                        self._write_to(self.folder, missing, tested)
            except (InputError, OSError) as error:
                print_line(
                    f"{listed(missing)} not written: {error}; --out names another folder",
                    self.console,
                )

    def _write_to(self, folder: RunFolder, names: Sequence[str], tested: Evaluations) -> None:
        data = self.env.data
        pictures = draw_pictures(tested, data, names)
        write_figures(folder, tested, data, pictures, table=PREDICTIONS in names)
        print_line(f"Wrote {listed(names)} to {folder.path}", self.console)
