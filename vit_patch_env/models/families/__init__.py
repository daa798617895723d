"""ViTs of other libraries, by name or as modules, with the model contract of this package.

A family is a module in this folder with `make(name, ...)`, the library's own model, and
`wrap(model)`, which adapts a model of that library and returns None for any other module.
"""

import importlib
import importlib.util
import sys
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from vit_patch_env.checks import ArgumentError, InputError, counted, named
from vit_patch_env.models.families.base import LibraryViT
from vit_patch_env.models.model_names import family_of
from vit_patch_env.names import ModelFamily


class _Family(NamedTuple):
    """A library.

    Attributes:
        module: in this folder.
        package: that it needs.
        extra: of this package, which brings it.
    """

    module: str
    package: str
    extra: str


_FAMILIES: dict[ModelFamily, _Family] = {
    "timm": _Family("timm_vits", "timm", "timm"),
    "torchvision": _Family("torchvision_vits", "torchvision", ""),
    "hf": _Family("hugging_face_vits", "transformers", "hf"),
    "vit_pytorch": _Family("vit_pytorch_vits", "vit_pytorch", "vit-pytorch"),
}


class Sizes(NamedTuple):
    """What a model takes: sides in pixels, of an image one number where it is square."""

    image_size: int | tuple[int, int]
    patch_size: int


def make_library_vit(
    name: str,
    *,
    n_classes: int,
    channels: int,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    **sizes: Any,
) -> LibraryViT:
    """The library's model of that name, with fresh weights, and the contract of this package.

    Args:
        name: `<family>:<name of the library>`.
        n_classes: outputs.
        channels: image channels.
        image_size: in pixels, one number for square images; None for the model's own.
        patch_size: in pixels; None for the model's own.
        sizes: dim, depth and so on, for models without sizes of their own.

    Raises:
        InputError: for a missing package, an unknown model, one that cannot drop patches, or a
            size that it does not take.
    """
    family = family_of(name)
    assert family is not None
    module = _imported(family, name)
    if image_size is not None and not isinstance(image_size, tuple):
        image_size = (image_size, image_size)
    try:
        plain: nn.Module = module.make(
            name.partition(":")[2], n_classes=n_classes, channels=channels,
            image_size=image_size, patch_size=patch_size, **sizes,
        )  # fmt: skip
        wrapped: LibraryViT = (
            module.wrap(plain, image_size) if family == "vit_pytorch" else module.wrap(plain)
        )
    except (InputError, MemoryError):
        raise
    except Exception as error:  # what the libraries raise for sizes that they do not take
        given = [f"{named('image_size')} {list(image_size)}"] if image_size else []
        given += [f"{named('patch_size')} {patch_size}"] if patch_size else []
        raise ArgumentError(
            "model",
            f"{name} must take {', '.join([*given, counted(channels, 'channel')])}, "
            f"got: {' '.join(str(error).split())}",
        ) from error
    return wrapped


def wrap_library_vit(model: nn.Module) -> LibraryViT | None:
    """The adapter of a library's model; None for any other module.

    Raises:
        InputError: for a library's model that cannot drop patches, with the reason.
    """
    for family in _FAMILIES.values():
        if family.package in sys.modules:  # a model of it could not exist otherwise
            module = importlib.import_module(f"{__name__}.{family.module}")
            wrapped: LibraryViT | None = module.wrap(model)
            if wrapped is not None:
                return wrapped
    return None


@lru_cache(16)
def library_sizes(name: str) -> Sizes:
    """The sizes that a library's model of that name has by itself.

    Raises:
        InputError: as `make_library_vit`.
    """
    with torch.device("meta"):
        return sizes_of(make_library_vit(name, n_classes=2, channels=3))


def sizes_of_model(model: object) -> Sizes | None:
    """The sizes that a model has by itself; None for one without.

    Args:
        model: the name of a library's model, a module, or anything else.

    Raises:
        InputError: as `make_library_vit`, or for a library's module that cannot drop patches.
    """
    if isinstance(model, str):
        return library_sizes(model)
    wrapped = model if isinstance(model, LibraryViT) else None
    if wrapped is None and isinstance(model, nn.Module):
        wrapped = wrap_library_vit(model)
    return None if wrapped is None else sizes_of(wrapped)


def sizes_of(model: LibraryViT) -> Sizes:
    """The sizes of a library's model.

    Raises:
        InputError: for patches that are not square.
    """
    height, width = model.image_size
    if model.patch_size[0] != model.patch_size[1]:
        raise InputError(f"a model must have square patches, got {list(model.patch_size)}")
    return Sizes(height if height == width else (height, width), model.patch_size[0])


def _imported(family: ModelFamily, name: str) -> Any:
    module, package, extra = _FAMILIES[family]
    if importlib.util.find_spec(package) is None:
        raise ArgumentError(
            "model", f"{name} needs the extra {extra}, pip install 'vit-patch-env[{extra}]'"
        )
    return importlib.import_module(f"{__name__}.{module}")
