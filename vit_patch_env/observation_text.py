"""The text that names an observation, such as `attention_output:0,3,5+run`."""

from typing import Literal, NamedTuple, cast, get_args

from vit_patch_env.checks import ArgumentError, shown
from vit_patch_env.names import ObservationName

RUN = "+run"
"""At the end of an observation that run features are appended to."""

OF_LAYERS = ("attention_output", "attention_standardized")
"""Observations that can be those of other layers than the first."""

Layers = tuple[int, ...] | Literal["mean"]
"""Layers from 0, ascending, or all of them."""


class ObservationText(NamedTuple):
    """The parts of the text.

    Attributes:
        name: of a function.
        layers: whose mean it observes; the first one of an observation that has no others.
        with_run: whether run features are appended.
    """

    name: ObservationName
    layers: Layers = (0,)
    with_run: bool = False


def parse_observation(text: str) -> ObservationText:
    """The parts of `name[:layers][+run]`, where layers are `0,3,5` or `mean`.

    Raises:
        ArgumentError: for another text, layers of an observation that has none, or one named twice.
    """
    name, colon, layers = text.removesuffix(RUN).partition(":")
    names = get_args(ObservationName)
    if name not in names:
        raise ArgumentError(
            "observation",
            f"must be one of {', '.join(names)}, or one of these with {RUN} at its end, "
            f"got {shown(text)}",
        )
    if colon and name not in OF_LAYERS:
        raise ArgumentError(
            "observation", f"has layers only as {' and '.join(OF_LAYERS)}, got {shown(text)}"
        )
    parsed = _layers(layers, text) if colon else (0,)
    return ObservationText(cast("ObservationName", name), parsed, text.endswith(RUN))


def check_layers(text: str, n_layers: int) -> None:
    """Refuse layers that a model does not have.

    Args:
        text: that names an observation.
        n_layers: of the model.

    Raises:
        ArgumentError: for such a layer.
    """
    layers = parse_observation(text).layers
    if layers != "mean" and max(layers) >= n_layers:
        raise ArgumentError(
            "observation",
            f"must name layers in [0, {n_layers - 1}], those of the model, got {shown(text)}",
        )


def _layers(words: str, text: str) -> Layers:
    if words == "mean":
        return "mean"
    numbers = words.split(",")
    # Short enough for any number of layers; int() takes other signs and digits, too.
    if not all(one.isascii() and one.isdigit() and len(one) < 5 for one in numbers):
        raise ArgumentError(
            "observation",
            "must name layers by numbers from 0, such as attention_output:0,3,5, or mean for all, "
            f"got {shown(text)}",
        )
    layers = sorted(map(int, numbers))
    twice = next((one for one in layers if layers.count(one) > 1), None)
    if twice is not None:
        raise ArgumentError(
            "observation", f"must name each layer once, got {twice} twice in {shown(text)}"
        )
    return tuple(layers)
