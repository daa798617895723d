"""ViTs by name: SimpleViT, the original ViT, ViTs that reduce their tokens, and other libraries'.

This package's own are modules in this folder, each with its class as `MODEL`. All consist of
SimpleViT's blocks, so that only the method differs, and all accept `model(images, keep)`: a model
drops or merges tokens in addition to the dropped patches. Other libraries' are in `families/`.
"""

import copy
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

from vit_patch_env.checks import ArgumentError, InputError, Share, check, named
from vit_patch_env.checks import shown as shown
from vit_patch_env.models.model_names import check_model_name, family_of, has_own_sizes, is_own
from vit_patch_env.names import ModelName
from vit_patch_env.system.imported import imported

if TYPE_CHECKING:
    from torch import nn

    from vit_patch_env.models.simple_vit import SimpleViT

_SIZES = ("image_size", "patch_size")


def model_class(name: ModelName) -> "type[SimpleViT]":
    """The class of that name."""
    model: type[SimpleViT] = importlib.import_module(f"{__name__}.{name}").MODEL
    return model


def make_model(
    model: "str | nn.Module | Callable[[int, int], nn.Module]",
    *,
    keep_rate: float | None = None,
    n_classes: int,
    channels: int = 3,
    **vit_options: Any,
) -> "nn.Module":
    """A model by its name, of a function or as a copy, which meets the contract of docs/models.md.

    Weights are initialised from torch's global generator; a module's are copied.

    Args:
        model: the name of a model; a function of (n_classes, channels); or a module.
        keep_rate: share of the tokens that a model of this package keeps, as its class documents;
            None for the published one.
        n_classes: outputs.
        channels: image channels.
        vit_options: of `SimpleViT`; a library's model takes image_size and patch_size.

    Raises:
        ValueError: as `check_model` and `SimpleViT` do, or for a model without the contract.
    """
    from vit_patch_env.models.contract import select_patches  # torch takes seconds

    if not isinstance(model, str):
        is_module = not isinstance(model, type) and hasattr(model, "state_dict")
        source: Any = model
        made: nn.Module = (
            copy.deepcopy(source) if is_module else _called(source, n_classes, channels)
        )
    elif family_of(model) is None and not is_own(model):
        check_model(model, keep_rate)
        made = _called(imported("model", model), n_classes, channels)
    else:
        return _named_model(model, keep_rate, n_classes, channels, vit_options)
    return select_patches(made)  # type: ignore[no-any-return]


def _called(make: Callable[[int, int], Any], n_classes: int, channels: int) -> Any:
    """What a user's function makes.

    Raises:
        ArgumentError: for whatever it raises.
    """
    try:
        return make(n_classes, channels)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ArgumentError(
            "model",
            f"must make a model of ({n_classes} classes, {channels} channels), got "
            f"{type(error).__name__}: {reason}",
        ) from error


def _named_model(
    name: str,
    keep_rate: float | None,
    n_classes: int,
    channels: int,
    vit_options: dict[str, Any],
) -> "nn.Module":
    """A model of this package or of a library."""
    check_model(name, keep_rate)
    if is_own(name):
        if keep_rate is not None:
            vit_options["keep_rate"] = keep_rate
        return model_class(name)(n_classes=n_classes, channels=channels, **vit_options)
    from vit_patch_env.models.families import make_library_vit  # torch takes seconds

    if has_own_sizes(name):
        vit_options = {one: vit_options.get(one) for one in _SIZES}
    return make_library_vit(name, n_classes=n_classes, channels=channels, **vit_options)


def check_model(name: str, keep_rate: float | None = None) -> None:
    """Check the arguments of `make_model` without constructing a model.

    Raises:
        ValueError: for an unknown name, a keep_rate outside (0, 1] or of a model without one, or a
            package that the model needs and that is not installed.
    """
    check_model_name(name)
    if keep_rate is not None:
        names = get_args(ModelName)
        owners = [one for one in names if model_class(one).published_keep_rate is not None]
        if name not in owners:
            raise ArgumentError(
                "keep_rate", f"belongs to {', '.join(owners)}, got {named('model')} {name}"
            )
        check(Share, keep_rate=keep_rate)
    if not is_own(name):
        if family_of(name) is None:
            imported("model", name)
        return
    package = model_class(name).package
    if package and importlib.util.find_spec(package.replace("-", "_")) is None:
        raise ArgumentError("model", f"{name} needs {package}: pip install {package}")
