"""A ViT in the files of the library that it is of, which that library loads itself."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_model
from torch import Tensor, nn

from vit_patch_env.checks import InputWarning
from vit_patch_env.experiments.use.exported import Exported, Format, Logits
from vit_patch_env.models.contract import plain_model
from vit_patch_env.models.families import make_library_vit
from vit_patch_env.models.weights.card import WeightsCard

HF_FILES = frozenset({"config.json", "model.safetensors", "preprocessor_config.json"})
"""What a folder of Hugging Face's consists of."""


def _write_hugging_face(exported: Exported, path: Path) -> None:
    model: Any = plain_model(exported.model)
    names = dict(enumerate(exported.card.classes))
    model.config.id2label = names
    model.config.label2id = {name: label for label, name in names.items()}
    with _without_progress_bars():
        model.save_pretrained(path)
    image_processor(exported.card).save_pretrained(path)


def _run_hugging_face(exported: Exported, path: Path) -> Logits:
    transformers: Any = import_module("transformers")
    transformers.AutoImageProcessor.from_pretrained(path)
    with _without_progress_bars():
        model = transformers.AutoModelForImageClassification.from_pretrained(path)
    return partial(_hugging_face_logits, model.eval())


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Within the block, transformers shows no progress of reading and writing files."""
    logging: Any = import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _hugging_face_logits(model: Any, images: Tensor) -> Tensor:
    logits: Tensor = model(images).logits
    return logits


def image_processor(card: WeightsCard) -> Any:
    """Hugging Face's image processor that prepares images as in training.

    It has none that pads or that crops to a rectangle: then it stretches images, with a warning.
    """
    transformers: Any = import_module("transformers")
    height, width = card.image_size
    size = {"height": height, "width": width}
    values: dict[str, Any] = {
        "image_mean": list(card.mean),
        "image_std": [one or 1.0 for one in card.std],
        "resample": int(Image.Resampling[card.interpolation.upper()]),
    }
    if card.resize == "crop" and height == width:
        return transformers.CLIPImageProcessor(
            size={"shortest_edge": height}, crop_size=size, do_convert_rgb=card.channels == 3,
            **values,
        )  # fmt: skip
    if card.resize != "stretch":
        warnings.warn(
            InputWarning(
                f"preprocessor_config.json stretches images to {height} x {width}, as transformers "
                f"has no processor that prepares them as in training, by {card.resize}"
            ),
            stacklevel=2,
        )
    return transformers.ViTImageProcessor(size=size, **values)


def _write_timm(exported: Exported, path: Path) -> None:
    save_model(plain_model(exported.model), str(path), exported.card.metadata())


def _run_timm(exported: Exported, path: Path) -> Logits:
    plain = _fresh(exported.card)
    import_module("timm.models").load_checkpoint(plain, str(path))
    return plain


def _write_torchvision(exported: Exported, path: Path) -> None:
    torch.save(plain_model(exported.model).state_dict(), path)


def _run_torchvision(exported: Exported, path: Path) -> Logits:
    plain = _fresh(exported.card)
    plain.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return plain


def _fresh(card: WeightsCard) -> nn.Module:
    """The library's own model with fresh weights."""
    model: nn.Module = make_library_vit(
        card.model,
        n_classes=len(card.classes),
        channels=card.channels,
        image_size=card.image_size,
        patch_size=card.patch_size,
    ).plain_model
    return model.eval()


LIBRARIES: dict[str | None, Format] = {
    "hf": Format(_write_hugging_face, _run_hugging_face),
    "timm": Format(_write_timm, _run_timm, suffix=".safetensors"),
    "torchvision": Format(_write_torchvision, _run_torchvision, suffix=".pth"),
}
"""The format of each library whose models can be exported for it."""
