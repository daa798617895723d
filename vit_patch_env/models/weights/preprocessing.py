"""How images are prepared for weights: as those were that the weights were trained on."""

import importlib
import os
from pathlib import Path
from typing import Any, NamedTuple, get_args

from vit_patch_env.checks import ArgumentError, InputError, named, shown
from vit_patch_env.models.model_names import family_of
from vit_patch_env.models.weights.card import read_card
from vit_patch_env.names import InterpolationName, PublishedFamily
from vit_patch_env.reading import read_json

_RUN_WEIGHTS = ("vit.safetensors", "vit_best.safetensors")
_RESULT, _CONFIG = "result.json", "config.json"
"""Of a run's folder."""


class Preprocessing(NamedTuple):
    """How images are prepared; None where it is not known.

    Attributes:
        mean: of each channel, for values in [0, 1].
        std: standard deviation of each channel.
        interpolation: of resizing.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: InterpolationName | None = None


def preprocessing_of(model: object, weights: str | Path | None) -> Preprocessing:
    """How images were prepared for the weights that training starts from.

    It is that of the weights' card, or of the run whose folder they are in; otherwise that of the
    library's model.

    Args:
        model: its name, or an object, of which nothing is known.
        weights: file that they are read from; None for published ones.

    Raises:
        InputError: for a damaged file beside the weights, or a model that cannot be made.
    """
    path = None if weights is None else Path(weights)
    # A path that no file can have is refused where the weights are read.
    found = path is not None and os.path.isfile(path)  # noqa: PTH113
    card = read_card(path) if path is not None and found else None
    if card is not None:
        return Preprocessing(card.mean, card.std, card.interpolation)
    if (
        path is not None
        and found
        and path.name in _RUN_WEIGHTS
        and (path.parent / _RESULT).is_file()
    ):
        return _of_run(path.parent)
    family = family_of(model)
    if not isinstance(model, str) or family not in get_args(PublishedFamily):
        return Preprocessing()
    # What is imported needs torch, which takes seconds.
    families: Any = importlib.import_module("vit_patch_env.models.families")
    families.library_sizes(model)  # raises for a missing package, or an unknown model
    library = importlib.import_module(f"{__package__}.{family}_weights")
    mean, std, interpolation = library.preprocessing(model.partition(":")[2])
    if interpolation is not None and interpolation not in get_args(InterpolationName):
        known = ", ".join(get_args(InterpolationName))
        raise ArgumentError(
            "interpolation",
            f"must be given as one of {known}, as that of {model} is none, got {interpolation}",
        )
    return Preprocessing(mean, std, interpolation)


def _of_run(folder: Path) -> Preprocessing:
    """That of a finished run."""
    result = read_json(folder / _RESULT)
    mean, std = result.get("normalize_mean"), result.get("normalize_std")
    if not isinstance(mean, list) or not isinstance(std, list):
        raise InputError(
            f"expected normalize_mean and normalize_std of the run in {folder / _RESULT}, "
            f"got {shown(mean)} and {shown(std)}: give {named('mean')} and {named('std')}"
        )
    options: Any = read_json(folder / _CONFIG).get("options")
    env = options.get("env") if isinstance(options, dict) else None
    interpolation = env.get("interpolation") if isinstance(env, dict) else None
    known = interpolation in get_args(InterpolationName)
    return Preprocessing(tuple(mean), tuple(std), interpolation if known else "bilinear")
