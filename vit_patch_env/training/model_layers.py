"""Which layer of a model each parameter is part of."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from vit_patch_env.checks import ArgumentError, named


class ModelLayers(NamedTuple):
    """The layers of a model.

    Attributes:
        of: maps a parameter's name to its layer: 0 for the embedding, positions and prefix tokens,
            i + 1 for block i, n_blocks + 1 for the final norm and the head.
        n_blocks: number of blocks.
    """

    of: Callable[[str], int]
    n_blocks: int


def model_layers(model: nn.Module, argument: str, value: object) -> ModelLayers:
    """The layers of a model.

    Args:
        model: with `layer_of(name)` and `n_layers`.
        argument: that needs them.
        value: of the argument.

    Raises:
        ArgumentError: for a model without them.
    """
    layer_of, n_layers = getattr(model, "layer_of", None), getattr(model, "n_layers", None)
    if not callable(layer_of) or not isinstance(n_layers, int):
        raise ArgumentError(
            argument,
            f"{value} needs a {named('model')} with layer_of and n_layers, got "
            f"{type(model).__name__}",
        )
    return ModelLayers(layer_of, n_layers)
