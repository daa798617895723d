"""Weights of Hugging Face's models, loaded as transformers loads them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageClassification
from transformers.image_processing_base import ImageProcessingMixin

from vit_patch_env.checks import ArgumentError, InputError, named
from vit_patch_env.system.shown import listed

_UNUSED = (".pooler.", ".mask_token")
"""In names of weights that a model for classification has no place for."""

_HEADS = ("classifier.weight", "cls_classifier.weight")


def published(
    name: str, *, channels: int, image_size: tuple[int, int], patch_size: int
) -> dict[str, Tensor]:
    """The weights in a folder, or those that transformers downloads, for images of this size.

    Raises:
        Exception: whatever transformers raises.
    """
    return _loaded(AutoModelForImageClassification, name, image_size=image_size)


def converted(
    name: str,
    state: Mapping[str, Tensor],
    *,
    channels: int,
    image_size: tuple[int, int],
    patch_size: int,
) -> dict[str, Tensor]:
    """Weights of a file for images of this size; transformers interpolates positions.

    Raises:
        Exception: whatever transformers raises for those of another model.
    """
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    config.num_channels, config.patch_size = channels, patch_size
    config.num_labels = next((len(state[head]) for head in _HEADS if head in state), 2)
    config.image_size = _image_size(state, image_size, patch_size) or config.image_size
    with torch.device("meta"):
        own: Any = type(AutoModelForImageClassification.from_config(config))
    return _loaded(own, None, image_size=image_size, config=config, state_dict=dict(state))


def source(name: str) -> str:
    """Where transformers reads the weights from."""
    return name if Path(name).is_dir() else f"https://huggingface.co/{name}"


def preprocessing(name: str) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean, standard deviation and interpolation in the image processor's file.

    Raises:
        ArgumentError: if there is none.
    """
    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except Exception as error:  # of many kinds, by what is missing
        raise _without_preprocessing(name) from error
    mean, std = (values.get(key) for key in ("image_mean", "image_std"))
    if not values.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    resample = values.get("resample", Image.Resampling.BILINEAR)
    if not mean or not std or resample not in list(Image.Resampling):
        raise _without_preprocessing(name)
    return tuple(mean), tuple(std), Image.Resampling(resample).name.lower()


def _without_preprocessing(name: str) -> ArgumentError:
    return ArgumentError(
        "mean",
        f"must be given, and {named('std')} and {named('interpolation')}, as hf:{name} has no "
        "preprocessor_config.json with them",
    )


def _loaded(
    kind: Any, name: str | None, *, image_size: tuple[int, int], **options: Any
) -> dict[str, Tensor]:
    """The weights that transformers finds, without those that it had to initialise.

    Raises:
        InputError: for weights that the model has no place for.
    """
    model, found = kind.from_pretrained(
        name, output_loading_info=True, trust_remote_code=False, **options
    )
    unexpected = [
        one for one in found["unexpected_keys"] if not any(word in f".{one}" for word in _UNUSED)
    ]
    missing = set(found["missing_keys"])
    if unexpected:
        raise InputError(f"{listed(sorted(unexpected))}, which the model does not have")
    state = {key: value for key, value in model.state_dict().items() if key not in missing}
    embeddings = getattr(model, model.base_model_prefix).embeddings
    positions = embeddings.position_embeddings
    key = next(key for key, value in model.named_parameters() if value is positions)
    if key in state:
        state[key] = _interpolated(embeddings, positions, image_size)
    return state


def _interpolated(embeddings: Any, positions: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Positions for images of this size: (1, n_prefix_tokens + n_patches, dim)."""
    cut = embeddings.patch_embeddings
    n_prefix = positions.shape[1] - cut.num_patches
    sides = zip(image_size, cut.patch_size, strict=True)
    n_patches = math.prod(length // side for length, side in sides)
    tokens = torch.empty(1, n_prefix + n_patches, positions.shape[2])
    with torch.no_grad():
        interpolated: Tensor = embeddings.interpolate_pos_encoding(tokens, *image_size)
    return interpolated


def _image_size(
    state: Mapping[str, Tensor], image_size: tuple[int, int], patch_size: int
) -> tuple[int, int] | int | None:
    """The size of the images that weights are of, in pixels; None if it is not known."""
    n_patches = math.prod(side // patch_size for side in image_size)
    for name, value in state.items():
        if name.endswith("position_embeddings") and value.ndim == 3:
            if value.shape[1] - n_patches in (1, 2):  # prefix tokens with positions
                return image_size if image_size[0] != image_size[1] else image_size[0]
            return math.isqrt(value.shape[1]) * patch_size  # they are fewer than a row
    return None
