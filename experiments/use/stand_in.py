"""An environment for the ViT and the agent of a run, without the run's images."""

import warnings
from typing import Any

import torch

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.arguments import declared
from vit_patch_env.checks import InputWarning
from vit_patch_env.config import EnvConfig
from vit_patch_env.config.model import SizeConfig
from vit_patch_env.data.splits import ImageData, Split
from vit_patch_env.models.weights.card import WeightsCard

_OF_THE_TASK = ("observation", "observe_images", "n_patches_desired", "epochs")
"""Arguments of a run that its agent depends on when it picks patches."""


def stand_in_env(
    card: WeightsCard, trained: EnvConfig | None, *, model: Any, device: str, precision: str
) -> ViTPatchSelectEnv:
    """An environment with a running episode of a run's sizes, whose images are black.

    Args:
        card: of the run's weights.
        trained: arguments of the run; None where only its weights are known.
        model: name of the model, or what makes it.
        device: of the model.
        precision: of its matrix products.

    Raises:
        ValueError: as `ViTPatchSelectEnv`, such as for a missing package.
    """
    of_task: dict[str, Any] = {"observation": "none"}
    if trained is not None:
        of_task = {name: getattr(trained, name) for name in _OF_THE_TASK}
    n_images = of_task.get("observe_images") or 1
    arguments: dict[str, Any] = {
        **{one.name: getattr(card, one.name) for one in declared(SizeConfig)},
        **of_task,
        "dataset": _black(card, n_images),
        "model": model,
        "keep_rate": card.keep_rate,
        "mean": card.mean,
        "std": tuple(one or 1.0 for one in card.std),
        "batch_size": n_images,
        "crop_padding": 0,
        "device": device,
        "precision": precision,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # they are about the cost of training
        env = ViTPatchSelectEnv(**arguments)
        env.reset(seed=0)
    return env


def _black(card: WeightsCard, n_images: int) -> ImageData:
    """Black images of the first class, which take no memory."""
    pixel = torch.zeros((), dtype=torch.uint8, device="cpu")
    images = pixel.expand(n_images, card.channels, *card.image_size)
    split = Split(images, torch.zeros(n_images, dtype=torch.int64, device="cpu"))
    return ImageData(split, split, split, card.classes, flip=False)
