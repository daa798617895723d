"""ViTs by name: SimpleViT, the original ViT, and ViTs that reduce their tokens themselves.

Each is a module in this folder with its class as `MODEL`. All consist of SimpleViT's blocks, so
that only the method differs, and all accept `model(images, keep)`: a model drops or merges tokens
in addition to the dropped patches.
"""

import importlib.util
from typing import TYPE_CHECKING, Any, get_args

from vit_patch_env.checks import ArgumentError, Share, check, check_choice, named
from vit_patch_env.names import ModelName

if TYPE_CHECKING:
    from vit_patch_env.models.simple_vit import SimpleViT


def model_class(name: ModelName) -> "type[SimpleViT]":
    """The class of that name."""
    model: type[SimpleViT] = importlib.import_module(f"{__name__}.{name}").MODEL
    return model


def make_model(
    name: ModelName, *, keep_rate: float | None = None, **vit_options: Any
) -> "SimpleViT":
    """The model of that name, with weights initialised from torch's global generator.

    Args:
        name: of the model.
        keep_rate: share of the tokens that the model keeps, as its class documents; None for the
            published one.
        vit_options: of `SimpleViT`.

    Raises:
        ValueError: as `check_model` and `SimpleViT` do.
    """
    check_model(name, keep_rate)
    if keep_rate is not None:
        vit_options["keep_rate"] = keep_rate
    return model_class(name)(**vit_options)


def check_model(name: ModelName, keep_rate: float | None = None) -> None:
    """Check the arguments of `make_model` without constructing a model.

    Raises:
        ValueError: for an unknown name, a keep_rate outside (0, 1] or of a model without one, or a
            package that the model needs and that is not installed.
    """
    check_choice(get_args(ModelName), model=name)
    if keep_rate is not None:
        names = get_args(ModelName)
        owners = [one for one in names if model_class(one).published_keep_rate is not None]
        if name not in owners:
            raise ArgumentError(
                "keep_rate", f"belongs to {', '.join(owners)}, got {named('model')} {name}"
            )
        check(Share, keep_rate=keep_rate)
    package = model_class(name).package
    if package and importlib.util.find_spec(package.replace("-", "_")) is None:
        raise ArgumentError("model", f"{name} needs {package}: pip install {package}")
