"""The contract of a model, docs/models.md: checked on a small forward pass, in one line."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vit_patch_env.checks import ArgumentError, InputError, counted, named, shown
from vit_patch_env.models.families import wrap_library_vit


def select_patches(model: nn.Module) -> Any:
    """A ViT whose forward pass takes the patches to keep: `model(images, keep)`.

    ViTs of timm, torchvision, Hugging Face and vit-pytorch are wrapped: `model.plain_model` is the
    library's module itself, whose weights are trained and whose `state_dict` has its own names;
    within `with model.patches(keep):`, `model(images)` computes with these patches. A model that
    meets the contract (docs/models.md) is returned as it is.

    Args:
        model: of a library, or with the contract.

    Raises:
        InputError: for a model that cannot drop patches, with the reason.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError("model", f"must be a torch.nn.Module, got {shown(model)}")
    wrapped = wrap_library_vit(model)
    if wrapped is not None:
        return wrapped
    name = type(model).__name__
    n_patches = getattr(model, "n_patches", None)
    if isinstance(n_patches, bool) or not isinstance(n_patches, int) or n_patches < 1:
        got = "a model without it" if n_patches is None else shown(n_patches)
        raise _problem(name, f"n_patches, the number of patches of an image, got {got}")
    if not _takes_keep(model):
        raise _problem(
            name,
            f"forward(images, keep=None), got forward{inspect.signature(model.forward)}",
        )
    return model


def plain_model(model: nn.Module) -> nn.Module:
    """What is saved of a model: the library's own module, or the model itself."""
    plain: nn.Module = getattr(model, "plain_model", model)
    return plain


def check_contract(
    model: nn.Module,
    images: Tensor,
    *,
    n_classes: int,
    n_patches: int,
    observe: Callable[[Any, Tensor], Tensor] | None = None,
    observation: str = "none",
    per_image: bool = False,
) -> None:
    """Run a model on images, and refuse one that does not meet the contract.

    Args:
        model: of `select_patches`.
        images: normalised, (2, channels, height, width), on the model's device.
        n_classes: classes of the data set.
        n_patches: patches of an image.
        observe: the observation, a function of model and images; None for none.
        observation: its name.
        per_image: whether it is to take other patches for each image.

    Raises:
        ArgumentError: naming the part that is missing or wrong.
    """
    name = type(model).__name__
    if model.n_patches != n_patches:
        expected = counted(n_patches, "patch")
        raise ArgumentError("model", f"must have {expected}, got {model.n_patches}")
    training = model.training
    model.eval()
    half = torch.arange(0, n_patches, 2, device=images.device)
    calls: dict[str, Tensor | None] = {"model(images)": None, "model(images, keep)": half}
    if per_image:
        calls["model(images, keep), keep of shape (n_images, n_keep)"] = half.repeat(len(images), 1)
    with torch.no_grad():
        for call, keep in calls.items():
            logits = _called(name, call, images, partial(model, images, keep))
            _check_shape(name, f"{call}, logits", logits, (len(images), n_classes))
        if observe is not None:
            what = f"{named('observation')} {observation}"
            observed = _observed(model, images, observe, what)
            _check_shape(name, what, observed, (n_patches,))
    model.train(training)


def _observed(
    model: nn.Module, images: Tensor, observe: Callable[[Any, Tensor], Tensor], what: str
) -> Any:
    """The observation of images; `what` names it in messages."""
    name = type(model).__name__
    try:
        return observe(model, images)
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, AttributeError) and error.obj is model:
            raise _problem(
                name,
                f"{error.name}(images), which {what} uses, got a model without it: "
                f"{named('observation')} none needs nothing",
            ) from error
        raise _failed(name, what, images, error) from error


def _takes_keep(model: nn.Module) -> bool:
    parameters = inspect.signature(model.forward).parameters.values()
    return any(one.name == "keep" or one.kind is one.VAR_KEYWORD for one in parameters) or (
        sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters) > 1
    )


def _called(name: str, call: str, images: Tensor, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except InputError:
        raise
    except Exception as error:  # a user's model may raise anything
        raise _failed(name, call, images, error) from error


def _check_shape(name: str, what: str, value: object, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor):
        raise _problem(name, f"{what} as a tensor {shape}, got {shown(value)}")
    if value.shape != shape:
        raise _problem(name, f"{what} of shape {shape}, got {tuple(value.shape)}")


def _problem(name: str, expected: str) -> ArgumentError:
    return ArgumentError("model", f"{name} must have {expected}")


def _failed(name: str, what: str, images: Tensor, error: Exception) -> ArgumentError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ArgumentError(
        "model",
        f"{name} must compute {what} for images {tuple(images.shape)}, "
        f"got {type(error).__name__}: {reason}",
    )
