"""Configurations of Hugging Face's models, in cards of weights: written, and read with bounds."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from annotated_types import Interval
from torch import nn

from vit_patch_env.checks import LAYERS, ArgumentError, Count, FromZero, InputError, check, shown

PLAIN_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers")
"""Types of models that can drop patches, in the configuration's words."""

_NOT_READ = frozenset({
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "auto_map", "use_kernels",
    "num_labels",
})  # fmt: skip
"""Names in a configuration: they would load code, or are of the card."""

_SIZES: dict[str, Any] = {
    "num_hidden_layers": Annotated[int, LAYERS],
    "hidden_size": Count,
    "num_attention_heads": Count,
    "intermediate_size": Count,
    "mlp_ratio": Annotated[float, Interval(gt=0, le=10**9)],
    "num_register_tokens": FromZero,
}
"""Sizes in a configuration; those of images and patches are the card's."""


def check_type(model_type: object, name: str) -> None:
    """Refuse a type of models that cannot drop patches.

    Args:
        model_type: in the configuration's words.
        name: of the model, for the message.

    Raises:
        ArgumentError: naming the types that can.
    """
    if model_type not in PLAIN_TYPES:
        raise ArgumentError(
            "model",
            f"{name} cannot drop patches: of transformers' models {', '.join(PLAIN_TYPES)} can, "
            f"got {shown(model_type)}",
        )


def config_of(model: nn.Module) -> dict[str, Any]:
    """A model's configuration as JSON values, without where it was read from."""
    plain: Any = getattr(model, "plain_model", model)
    config: dict[str, Any] = json.loads(plain.config.to_json_string())
    config.pop("_name_or_path", None)
    return config | {"architectures": [type(plain).__name__]}


@contextmanager
def named_by_config(config: dict[str, Any], name: str, file: Path) -> Iterator[str]:
    """The name of a model that a card's configuration describes, which is valid within the block.

    Without what would let transformers load code: kernels of the hub, and classes in files. Sizes
    are checked first, as transformers makes layers one by one, however many they are.

    Args:
        config: in the card.
        name: of the model, in the card.
        file: with the card, for messages.

    Raises:
        InputError: for a configuration that no model can be made of, from the block as well.
    """
    described = name
    try:
        check_type(config.get("model_type"), name)
        for size, kind in _SIZES.items():
            if size in config:
                check(kind, **{size: config[size]})
        own = {key: value for key, value in config.items() if key not in _NOT_READ}
        with TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(own), encoding="utf-8")
            described = f"hf:{folder}"
            yield described
    except InputError as error:
        if described != name and described not in str(error):  # it is about something else
            raise
        reason = str(error).replace(described, name)
        raise InputError(
            f"expected a model that the card of {file} describes, got: {reason}"
        ) from error
