"""Parts of a model that are not trained."""

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from vit_patch_env.checks import ArgumentError, counted
from vit_patch_env.models.contract import plain_model
from vit_patch_env.training.model_layers import model_layers

_BLOCKS = re.compile(r"blocks:(\d+)(?:-(\d+))?")


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Freeze parts of a model: they get no gradients and no state of an optimizer.

    Args:
        model: changed in place.
        parts: `embedding` (with positions and prefix tokens), `blocks:0-5` or `blocks:0`,
            `all-but-head` (which leaves the final norm and the head), and names of parameters or
            modules, in which * stands for any text; a library's model has the library's names.

    Raises:
        ArgumentError: for a part that the model does not have, or if nothing would be trained.
    """
    plain = plain_model(model)
    for part in parts:
        is_part = _matcher(model, part)
        found = [parameter for name, parameter in plain.named_parameters() if is_part(name)]
        if not found:
            names = ", ".join(name for name, _ in plain.named_children())
            raise ArgumentError(
                "freeze", f"must be parts of the model, which consists of {names}, got {part!r}"
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if parts and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ArgumentError("freeze", f"must leave a part to train, got {' '.join(parts)}")


def _matcher(model: nn.Module, part: str) -> Callable[[str], bool]:
    """Whether a parameter, by its name, belongs to a part."""
    blocks = _BLOCKS.fullmatch(part)
    if part not in ("embedding", "all-but-head") and not blocks:
        return lambda name: name.startswith(f"{part}.") or fnmatchcase(name, part)
    layer_of, n_blocks = model_layers(model, "freeze", part)
    if part == "embedding":
        return lambda name: layer_of(name) == 0
    if not blocks:
        return lambda name: layer_of(name) <= n_blocks
    first, last = int(blocks[1]), int(blocks[2] or blocks[1])
    if not first <= last < n_blocks:
        raise ArgumentError(
            "freeze", f"must be of {counted(n_blocks, 'block')}, numbered from 0, got {part!r}"
        )
    return lambda name: first < layer_of(name) <= last + 1
