"""Weights of timm's models, loaded as timm loads them."""

from collections.abc import Mapping
from typing import Any

import timm
from timm.data.config import resolve_data_config
from torch import Tensor

from vit_patch_env.checks import InputError

_EMBEDDING = "patch_embed.proj.weight"


def published(
    name: str, *, channels: int, image_size: tuple[int, int], patch_size: int
) -> dict[str, Tensor]:
    """The weights that timm downloads, for images of this size.

    Raises:
        InputError: for a model without published weights.
    """
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None or not config.has_weights:
        raise InputError("timm publishes none of this model")
    return _state(
        name, in_chans=channels, img_size=image_size, patch_size=patch_size, pretrained_cfg=None
    )


def converted(
    name: str,
    state: Mapping[str, Tensor],
    *,
    channels: int,
    image_size: tuple[int, int],
    patch_size: int,
) -> dict[str, Tensor]:
    """Weights of a file for images of this size; timm resamples positions and patch embedding.

    Raises:
        Exception: whatever timm raises for those of another model.
    """
    head, embedding = state.get("head.weight"), state.get(_EMBEDDING)
    n_channels = channels if embedding is None or embedding.ndim != 4 else embedding.shape[1]
    if n_channels not in (3, channels):
        raise InputError(f"an embedding of images of {n_channels} channels")
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    size = (3, *image_size) if config is None else config.input_size
    n_classes = 0 if head is None else len(head)
    own = {
        "state_dict": dict(state), "num_classes": n_classes, "label_offset": 0,
        "input_size": (n_channels, *size[1:]), "source": "",
    }  # fmt: skip
    return _state(
        name, in_chans=channels, img_size=image_size, patch_size=patch_size,
        num_classes=n_classes, pretrained_cfg_overlay=own,
    )  # fmt: skip


def source(name: str) -> str:
    """Where timm downloads the weights from."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        return ""
    return f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url)


def preprocessing(name: str) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean, standard deviation and interpolation of the model's data configuration."""
    config: Any = timm.get_pretrained_cfg(name, allow_unregistered=True)
    given = {} if config is None else config.to_dict()
    data: dict[str, Any] = resolve_data_config(pretrained_cfg=given)  # type: ignore[no-untyped-call]
    return tuple(data["mean"]), tuple(data["std"]), data["interpolation"]


def _state(name: str, **options: Any) -> dict[str, Tensor]:
    model = timm.create_model(name, pretrained=True, **options)
    state: dict[str, Tensor] = model.state_dict()
    return state
