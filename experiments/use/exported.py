"""What is exported, and what a format is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from vit_patch_env.models.weights.card import WeightsCard

Logits = Callable[[Tensor], Tensor]
"""What is run of a written file: maps normalised images to logits."""


class Exported(NamedTuple):
    """What is exported.

    Attributes:
        model: the ViT, in evaluation mode on the CPU.
        card: of its weights.
        given: what makes the model, if its code is not found by its name.
    """

    model: nn.Module
    card: WeightsCard
    given: Any


class Format(NamedTuple):
    """A format.

    Attributes:
        write: writes it to a path.
        run: what reads the written file, and computes logits with it.
        suffix: that the file must have, as what loads it goes by that; empty for a folder.
        packages: that it needs, of the extra onnx.
    """

    write: Callable[[Exported, Path], None]
    run: Callable[[Exported, Path], Logits]
    suffix: str = ""
    packages: tuple[str, ...] = ()
