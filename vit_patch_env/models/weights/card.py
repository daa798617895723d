"""The card in a safetensors file of a run's weights, with which the one file is enough."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval

from vit_patch_env.arguments import arguments, from_json, to_json
from vit_patch_env.checks import LAYERS, ArgumentError, Count, InputError, Side, counted
from vit_patch_env.names import InterpolationName, ResizeName
from vit_patch_env.patches.grid import patch_grid
from vit_patch_env.reading import MEGABYTE, open_regular, parse_json

KEY = "vit_patch_env"
"""Of the card in the file's metadata."""

_HEADER_BYTES = 16 * MEGABYTE
"""Of a safetensors file's header, which has some hundred bytes for each tensor."""

_LENGTH_BYTES = 8
"""Of the number at the beginning of the file, the length of its header."""

_FREE_TEXT: dict[str, Any] = {"classes": ["any"], "model_config": None}
"""Values with text of any characters, and others in their place."""


@arguments
class WeightsCard:
    """What is needed to use a ViT's weights: its model, and how images are prepared for it.

    Attributes:
        model: its name.
        keep_rate: share of tokens that it keeps, for models that take one.
        image_size: height and width of images, in pixels.
        patch_size: in pixels.
        dim: token size; this and the following ones are None for a model with sizes of its own.
        depth: transformer layers.
        heads: attention heads per layer.
        dim_head: size of a head.
        mlp_dim: hidden size of a layer's MLP.
        channels: of images.
        classes: their names, by label.
        mean: of each channel, for values in [0, 1].
        std: standard deviation of each channel; 1 for one without variation, which is centred.
        resize: how pictures get the images' shape.
        interpolation: of resizing.
        model_config: Hugging Face's configuration of the model; None for other models.
    """

    model: str
    keep_rate: Annotated[float | None, Interval(gt=0, le=1)] = None
    image_size: tuple[Side, Side]
    patch_size: Count
    dim: Annotated[int | None, Interval(ge=1)] = None
    depth: Annotated[int | None, LAYERS] = None
    heads: Annotated[int | None, Interval(ge=1)] = None
    dim_head: Annotated[int | None, Interval(ge=1)] = None
    mlp_dim: Annotated[int | None, Interval(ge=1)] = None
    channels: Annotated[int, Interval(ge=1, le=1024)]
    classes: tuple[str, ...]
    mean: tuple[Annotated[float, Interval(ge=0, le=1)], ...]
    std: tuple[Annotated[float, Interval(ge=0)], ...]
    resize: ResizeName
    interpolation: InterpolationName
    model_config: dict[str, Any] | None = None

    def check(self) -> None:
        """Check the values that depend on each other.

        Raises:
            ArgumentError: naming the one that is not valid.
        """
        patch_grid(self.image_size, self.patch_size)
        if not self.classes:
            raise ArgumentError("classes", "must be names, got none")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels:
                expected = counted(self.channels, "number")
                raise ArgumentError(name, f"must be {expected}, one per channel, got {len(values)}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of an image."""
        return patch_grid(self.image_size, self.patch_size)

    @property
    def n_patches(self) -> int:
        """Patches of an image."""
        return math.prod(self.grid)

    def metadata(self) -> dict[str, str]:
        """The metadata of a safetensors file with this card.

        One entry: safetensors writes several in any order, so that files would differ.
        """
        return {KEY: json.dumps(to_json(self))}


def read_card(path: Path) -> WeightsCard | None:
    """The card of a file of weights; None for one without, such as a library's.

    Only the beginning of the file is read.

    Raises:
        InputError: for a file that cannot be read, or with a damaged card.
    """
    what = "weights as safetensors"
    with open_regular(path, math.inf, what) as file:
        try:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            content = file.read(length) if length <= _HEADER_BYTES else b""
        except OSError as error:
            raise InputError(f"expected {what} in {path}, got: {error.strerror}") from error
    if content[:1] != b"{":
        return None
    try:
        metadata = parse_json(content).get("__metadata__")
        text = metadata.get(KEY) if isinstance(metadata, dict) else None
        return None if text is None else parse_card(text)
    except InputError as error:
        raise InputError(f"expected a card of weights in {path}, got: {error}") from error


def parse_card(text: object) -> WeightsCard:
    """The card of its JSON text.

    Raises:
        InputError: if it is not one; says what came.
    """
    if not isinstance(text, str):
        raise InputError(f"a card that is no text but {type(text).__name__}")
    values = parse_json(text.encode("utf-8", "surrogatepass"))
    if not isinstance(values, dict):
        return from_json(WeightsCard, values)  # which says so
    # Names of folders may have bytes that are not UTF-8, which `from_json` does not take.
    free = {name: values[name] for name in _FREE_TEXT if name in values}
    card = from_json(WeightsCard, values | {name: _FREE_TEXT[name] for name in free})
    return replace(card, **free)
