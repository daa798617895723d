"""The names of models, checked without importing what makes them."""

import difflib
import re
from typing import Any, TypeGuard, get_args

from vit_patch_env.checks import ArgumentError, shown
from vit_patch_env.names import ModelFamily, ModelName

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""A function in a module: `package.module:function`."""


def is_own(model: object) -> TypeGuard[ModelName]:
    """Whether it is the name of a model of this package."""
    return isinstance(model, str) and model in get_args(ModelName)


def family_of(model: object) -> ModelFamily | None:
    """The library whose model a name begins with; None for any other name or an object."""
    family: Any = model.partition(":")[0] if isinstance(model, str) and ":" in model else None
    return family if family in get_args(ModelFamily) else None


def has_own_sizes(model: object) -> bool:
    """Whether the sizes of the ViT are the model's own rather than arguments of the environment."""
    return family_of(model) not in (None, "vit_pytorch")


def check_model_name(name: str) -> None:
    """Refuse what is neither a `ModelName`, a library's model nor a function in a module.

    Raises:
        ArgumentError: with the names.
    """
    if is_own(name) or (family_of(name) and not name.endswith(":")) or _FUNCTION.fullmatch(name):
        return
    known = get_args(ModelName)
    close = difflib.get_close_matches(name, known, n=1)
    raise ArgumentError(
        "model",
        f"must be one of {', '.join(known)}, timm:<model>, torchvision:<model>, "
        "hf:<folder or name>, vit_pytorch:<class>, <module>:<function>, "
        f"got {shown(name)}{''.join(f', did you mean {one}?' for one in close)}",
    )
