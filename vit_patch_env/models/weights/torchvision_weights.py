"""Weights of torchvision's models, loaded as torchvision loads them."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchvision.models import get_model_weights
from torchvision.models.vision_transformer import interpolate_embeddings


def published(
    name: str, *, channels: int, image_size: tuple[int, int], patch_size: int
) -> dict[str, Tensor]:
    """The weights that torchvision downloads, its default ones, for images of this size."""
    state = _default(name).get_state_dict(
        progress=False, check_hash=True, map_location="cpu", weights_only=True
    )
    return converted(name, state, channels=channels, image_size=image_size, patch_size=patch_size)


def converted(
    name: str,
    state: Mapping[str, Tensor],
    *,
    channels: int,
    image_size: tuple[int, int],
    patch_size: int,
) -> dict[str, Tensor]:
    """Weights of a file for images of this size; torchvision interpolates positions.

    Raises:
        Exception: whatever torchvision raises for those of another model.
    """
    return dict(interpolate_embeddings(image_size[0], patch_size, OrderedDict(state)))


def source(name: str) -> str:
    """Where torchvision downloads the weights from."""
    return str(_default(name).url)


def preprocessing(name: str) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean, standard deviation and interpolation of the default weights."""
    transforms = _default(name).transforms()
    return tuple(transforms.mean), tuple(transforms.std), transforms.interpolation.value


def _default(name: str) -> Any:
    weights: Any = get_model_weights(name)
    return weights.DEFAULT
