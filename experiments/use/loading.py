"""Loading a finished run from its folder, or its ViT from the file of weights alone."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from torch import nn

from vit_patch_env.arguments import declared
from vit_patch_env.checks import ArgumentError, InputError, check_choice
from vit_patch_env.config import EnvConfig
from vit_patch_env.config.model import SizeConfig
from vit_patch_env.data.downloads import without_downloads
from vit_patch_env.experiments.agents_by_name.factory import ACTIONS, make_agent
from vit_patch_env.experiments.agents_by_name.table import before_images
from vit_patch_env.experiments.checkpoints.generators import (
    restore_generators,
    snapshot_generators,
)
from vit_patch_env.experiments.options.commands import WeightsName
from vit_patch_env.experiments.run_folder.folder import AGENT, CONFIG, RESULT, VIT, RunFolder
from vit_patch_env.experiments.runs.loaded_model import load_weights, model_of_run
from vit_patch_env.experiments.use.loaded_run import LoadedRun
from vit_patch_env.experiments.use.stand_in import stand_in_env
from vit_patch_env.models.weights.card import WeightsCard, read_card
from vit_patch_env.training.precision import resolve_device

Model = str | nn.Module | Callable[[int, int], nn.Module]

_OF_THE_CARD = {"keep_rate", *(one.name for one in declared(SizeConfig))}
"""Arguments of a model by name that a card has."""


def load_run(
    run: str | os.PathLike[str],
    *,
    model: Model | None = None,
    weights: WeightsName = "newest",
    device: str | None = None,
) -> LoadedRun:
    """A finished run, ready for predictions; its images are not needed, and nothing is downloaded.

    No code in the files is executed.

    Args:
        run: path of its folder; or of a file of its weights, which has no agent.
        model: for a run whose model is a function in a module: its name, or the function of
            (n_classes, channels), as code that only a file names is not imported.
        weights: `newest`, or `best`: those of the best epoch, which `train --keep-best` keeps.
        device: of the ViT; by default that of the run, or CUDA where available.

    Raises:
        ValueError: for a folder without a finished run, a damaged file, or a missing package.
    """
    check_choice(get_args(WeightsName), weights=weights)
    path, generators = Path(run), snapshot_generators()
    try:
        return _load(path, model, weights, device)
    finally:  # which the agent's constructor seeds
        restore_generators(generators)


def _load(path: Path, model: Any, weights: WeightsName, device: str | None) -> LoadedRun:
    """The run or the file of weights at a path."""
    if path.is_file():
        if weights != "newest":
            raise ArgumentError("weights", f"must be newest for a file of weights, got {weights}")
        return _load_file(path, model, device)
    if not path.exists():
        raise ArgumentError(
            "run",
            "must be the folder of a finished run, or a file of its weights, "
            f"got {path}: there is neither",
        )
    return _load_folder(RunFolder(path), model, weights, device)


def _load_file(path: Path, model: Any, device: str | None) -> LoadedRun:
    """The ViT of a file of weights."""
    card = read_card(path)
    if card is None:
        raise InputError(
            f"expected weights with a card, as train writes them, in {path}, got none: load the "
            "folder of the run"
        )
    env = _with_weights(card, None, path, model=model, device=device or "auto", precision="fp32")
    return LoadedRun(env, card, agent=None, agent_env=env, batch_size=EnvConfig.batch_size)


def _load_folder(
    folder: RunFolder, model: Any, weights: WeightsName, device: str | None
) -> LoadedRun:
    """The ViT and the agent of a run."""
    folder.check_finished("run")
    file = folder.weights_file(weights)
    folder.check_files(CONFIG, file.name, AGENT)
    result, trained = folder.read_result(), folder.options
    card = read_card(file) or _card_of(trained.env, result, folder.path)
    device = str(device or trained.env.device)
    precision = result["precision"]
    if precision == "fp16" and resolve_device(device).type == "cpu":
        precision = "fp32"  # there is no fp16 on a CPU
    env = _with_weights(card, trained.env, file, model=model, device=device, precision=precision)
    saved = folder.with_saved_agent(trained)
    agent_env = ACTIONS[saved.actions](env)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about training
        agent = make_agent(saved, before_images(env), agent_env)
    return LoadedRun(env, card, agent=agent, agent_env=agent_env, batch_size=trained.env.batch_size)


def _with_weights(
    card: WeightsCard, trained: EnvConfig | None, file: Path, *, model: Any, **of_model: str
) -> Any:
    """An environment whose model has the weights in a file.

    Raises:
        InputError: as `stand_in_env`; the file is named where its card is to blame.
    """
    with model_of_run(card.model, model, card, file) as made_of, without_downloads():
        try:
            env = stand_in_env(card, trained, model=made_of, **of_model)
        except InputError as error:
            of_another = isinstance(error, ArgumentError) and error.name not in _OF_THE_CARD
            if made_of != card.model or of_another:
                raise
            raise InputError(
                f"expected a model that the card of {file} describes, got: {error}"
            ) from error
    load_weights(env.episode.model, file)
    return env


def _card_of(env: EnvConfig, result: dict[str, Any], path: Path) -> WeightsCard:
    """The card of a run of a version that wrote none, from its other files."""
    needed = ("classes", "normalize_mean", "normalize_std")
    missing = [name for name in needed if not isinstance(result.get(name), list)]
    if missing:
        raise InputError(
            f"expected a card in {path / VIT} or {', '.join(missing)} in {RESULT}, got a run of "
            "version 0.1 with neither: vit-patch evaluate takes it with its images"
        )
    mean, std = result["normalize_mean"], result["normalize_std"]
    return WeightsCard(
        model=str(env.model),
        keep_rate=env.keep_rate,
        **{**env.sizes, "image_size": env.size},
        channels=len(mean),
        classes=tuple(result["classes"]),
        mean=tuple(mean),
        std=tuple(std),
        resize=env.resize,
        interpolation=env.interpolation or "bilinear",
    )
