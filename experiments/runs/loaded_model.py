"""The model of a run that is loaded: by the name in its files, or as the user gives it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn

from vit_patch_env.checks import ArgumentError, InputError, shown
from vit_patch_env.models.contract import plain_model
from vit_patch_env.models.families.hugging_face_config import named_by_config
from vit_patch_env.models.model_names import family_of, is_own
from vit_patch_env.models.weights.card import WeightsCard


@contextmanager
def model_of_run(name: str, given: Any, card: WeightsCard | None, file: Path) -> Iterator[Any]:
    """What makes the model of a run, valid within the block.

    Code that only a file names is not imported, and a model of Hugging Face is made of the card's
    configuration, so that neither its folder nor the network is needed.

    Args:
        name: of the model, in the run's files.
        given: by the user, for a model that is a function in a module: its name, or the function.
        card: of the weights, if they have one.
        file: with the weights.

    Raises:
        InputError: if the model must be given, or must not, or the card describes none.
    """
    if not (is_own(name) or family_of(name)):
        if given is None:
            raise ArgumentError(
                "model",
                f"must be given, as that of the run is {shown(name)}, code that is not imported "
                "because a file names it",
            )
        yield given
        return
    if given not in (None, name):
        raise ArgumentError("model", f"must be that of the run, {name}, got {shown(given)}")
    if family_of(name) == "hf" and card is not None and card.model_config is not None:
        with named_by_config(card.model_config, name, file) as described:
            yield described
        return
    yield name


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a run's weights into its model.

    Raises:
        InputError: for a damaged file, or weights of another model.
    """
    try:
        load_model(plain_model(model), str(path))
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"expected the ViT's weights in {path}, got: {reason}") from error
