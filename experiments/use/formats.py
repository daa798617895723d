"""A ViT's weights, or the ViT as a program, in files that other programs load."""

import io
from contextlib import redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.use.exported import Exported, Format, Logits
from vit_patch_env.experiments.use.library_formats import LIBRARIES
from vit_patch_env.experiments.use.loading import load_run
from vit_patch_env.models.contract import plain_model
from vit_patch_env.models.model_names import family_of
from vit_patch_env.models.weights.card import KEY, WeightsCard

CARD_FILE = f"{KEY}.json"
"""Of the card in an archive of torch.export."""


class _OnAllPatches(nn.Module):
    """A ViT as a function of images alone.

    Args:
        model: that takes the patches to keep as well.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, n_classes)."""
        logits: Tensor = self.model(images)
        return logits


def example(card: WeightsCard, n_images: int) -> Tensor:
    """Normalised images of random pixels: (n_images, channels, height, width) float32."""
    shape = n_images, card.channels, *card.image_size
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _write_safetensors(exported: Exported, path: Path) -> None:
    save_model(plain_model(exported.model), str(path), exported.card.metadata())


def _run_safetensors(exported: Exported, path: Path) -> Logits:
    loaded: Logits = load_run(path, model=exported.given, device="cpu").model
    return loaded


def _write_torch_export(exported: Exported, path: Path) -> None:
    buffer = io.BytesIO()  # as torch warns of a path with another suffix
    card = exported.card.metadata()[KEY]
    torch.export.save(_program(exported), buffer, extra_files={CARD_FILE: card})
    path.write_bytes(buffer.getvalue())


def _run_torch_export(exported: Exported, path: Path) -> Logits:
    program: Logits = torch.export.load(io.BytesIO(path.read_bytes())).module()
    return program


def _write_onnx(exported: Exported, path: Path) -> None:
    # The file consists of what torch.export has seen.
    made: Any = torch.onnx.export(
        _program(exported), input_names=["images"], output_names=["logits"], dynamo=True,
        verbose=False,
    )  # fmt: skip
    made.model.metadata_props[KEY] = exported.card.metadata()[KEY]
    made.save(path, external_data=False)  # one file, or an error above protobuf's 2 GB


def _run_onnx(exported: Exported, path: Path) -> Logits:
    session = import_module("onnxruntime").InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )

    def logits(images: Tensor) -> Tensor:
        (found,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(found)

    return logits


def _program(exported: Exported) -> Any:
    """The ViT as torch.export sees it, for any number of images."""
    # Of what it fails on it prints the whole program.
    with torch.no_grad(), redirect_stderr(io.StringIO()):
        return torch.export.export(
            _OnAllPatches(exported.model).eval(),
            (example(exported.card, 2),),
            dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
        )


FORMATS: dict[str, Format] = {
    "safetensors": Format(_write_safetensors, _run_safetensors, ".safetensors"),
    "torch-export": Format(_write_torch_export, _run_torch_export, ".pt2"),
    "onnx": Format(_write_onnx, _run_onnx, ".onnx", ("onnx", "onnxscript", "onnxruntime")),
}
"""Every format by its name; `library` is one of `LIBRARIES`."""


def format_of(name: str, card: WeightsCard) -> Format:
    """The format of that name, for the model of a card.

    Raises:
        ArgumentError: for a package that is missing, or a model that is of no library.
    """
    if name == "library":
        family = family_of(card.model)
        if family not in LIBRARIES:
            raise ArgumentError(
                "format",
                f"library is for models of {', '.join(filter(None, LIBRARIES))}, got {card.model}",
            )
        return LIBRARIES[family]
    found = FORMATS[name]
    for package in found.packages:
        try:
            import_module(package)
        except ImportError as error:
            raise ArgumentError(
                "format",
                f"onnx needs the extra onnx, pip install 'vit-patch-env[onnx]', got no {package}",
            ) from error
    return found
