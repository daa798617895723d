"""ViTs by name: SimpleViT, the original ViT, and ViTs that train on fewer tokens by themselves.

All are made of SimpleViT's blocks, so that only the method differs, and all take
`model(images, keep)`: what a model drops or merges itself comes on top of the patches it is given.
"""

import importlib.util
from typing import Any, Literal, get_args

from torch import nn

from vit_patch_env.checks import Share, check, check_choice
from vit_patch_env.models.ats_vit import ATSViT
from vit_patch_env.models.evit import EViT
from vit_patch_env.models.patch_dropout import PatchDropoutViT
from vit_patch_env.models.patch_merger import PatchMergerViT
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.models.token_expansion import TokenExpansionViT
from vit_patch_env.models.tome import ToMe
from vit_patch_env.models.vit import ViT

ModelName = Literal[
    "simple_vit", "vit", "ats_vit", "evit", "tome", "patch_merger", "patch_dropout",
    "token_expansion",
]  # fmt: skip

MODELS: dict[ModelName, type[SimpleViT]] = {
    "simple_vit": SimpleViT,
    "vit": ViT,
    "ats_vit": ATSViT,
    "evit": EViT,
    "tome": ToMe,
    "patch_merger": PatchMergerViT,
    "patch_dropout": PatchDropoutViT,
    "token_expansion": TokenExpansionViT,
}

_PACKAGES = {"patch_merger": "vit-pytorch", "patch_dropout": "timm"}
"""What a model needs beyond this package's own requirements; imported when it is built."""


def make_model(name: ModelName, *, keep_rate: float | None = None, **vit_options: Any) -> nn.Module:
    """The model of that name, with fresh weights of torch's global generator.

    Args:
        name: one of `MODELS`.
        keep_rate: share of the tokens that the model keeps, as its class tells; None for the
            published one.
        vit_options: of `SimpleViT`.

    Raises:
        ValueError: as `check_model` and `SimpleViT` do.
    """
    check_model(name, keep_rate)
    if keep_rate is not None:
        vit_options["keep_rate"] = keep_rate
    return MODELS[name](**vit_options)


def check_model(name: ModelName, keep_rate: float | None = None) -> None:
    """Check what `make_model` is asked for, and build nothing.

    Raises:
        ValueError: for an unknown name, a keep_rate outside (0, 1] or of a model without one, or a
            package that the model needs and that is not installed.
    """
    check_choice(get_args(ModelName), model=name)
    if keep_rate is not None:
        owners = [owner for owner, model in MODELS.items() if hasattr(model, "keep_rate")]
        if name not in owners:
            raise ValueError(f"keep_rate belongs to {', '.join(owners)}, got model {name}")
        check(Share, keep_rate=keep_rate)
    package = _PACKAGES.get(name)
    if package and importlib.util.find_spec(package.replace("-", "_")) is None:
        raise ValueError(f"model {name} needs {package}: pip install {package}")
