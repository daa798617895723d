"""Small models of other libraries by name, whose published weights are files that tests write."""

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vit_patch_env import ViTPatchSelectEnv

N_CLASSES = 4
"""Of the data set synthetic."""

PUBLISHED_SIZE = {"timm": 64, "torchvision": 64, "hf": 64}
SIZE = 96
"""Another one; patches have 16 pixels."""

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)


def randomised(model: nn.Module) -> Any:
    """The model with weights that are all different from 0."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


class Library:
    """A family of models, and one of them.

    Attributes:
        name: of the model, with its family.
        plain: the library's own model with the weights that it publishes.
        file: with these weights.
    """

    def __init__(self, family: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.family = family
        self.name, self.plain, self.file = globals()[f"_{family}"](folder, patch)

    def own(self, size: int, n_classes: int = N_CLASSES) -> Any:
        """The library's own loading of the published weights for images of another size."""
        return globals()[f"_{self.family}_own"](self, size, n_classes)

    def env(self, **arguments: Any) -> ViTPatchSelectEnv:
        """The environment on small synthetic images."""
        size = PUBLISHED_SIZE[self.family]
        given = {"dataset": "synthetic", "model": self.name, "image_size": size, "batch_size": 4}
        return ViTPatchSelectEnv(device="cpu", precision="fp32", **{**given, **arguments})


def _timm(folder: Path, patch: pytest.MonkeyPatch) -> tuple[str, Any, Path]:
    timm = pytest.importorskip("timm")
    from timm.models import _builder, _registry

    plain = randomised(timm.create_model("test_vit", img_size=64, num_classes=N_CLASSES))
    torch.save({"state_dict": plain.state_dict(), "epoch": 3}, folder / "timm.pt")
    config = timm.get_pretrained_cfg("test_vit")  # a copy
    config = replace(config, num_classes=N_CLASSES, mean=MEAN, std=STD)
    for name in ("test_vit", "test_vit.r160_in1k"):
        patch.setitem(_registry._model_pretrained_cfgs, name, config)
    patch.setattr(_builder, "load_state_dict_from_hf", lambda *_, **__: dict(plain.state_dict()))
    return "timm:test_vit", plain, folder / "timm.pt"


def _timm_own(library: Library, size: int, n_classes: int) -> Any:
    import timm

    return timm.create_model("test_vit", pretrained=True, img_size=size, num_classes=n_classes)


def _torchvision(folder: Path, patch: pytest.MonkeyPatch) -> tuple[str, Any, Path]:
    from torchvision import models, transforms
    from torchvision.models import _api

    def tiny_vit(*, weights: Any = None, progress: bool = True, **options: Any) -> nn.Module:
        return models.VisionTransformer(
            **{"image_size": 64, "num_classes": N_CLASSES, **options}, patch_size=16,
            num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=32,
        )  # fmt: skip

    plain = randomised(tiny_vit())
    torch.save(plain.state_dict(), folder / "state.pth")
    digest = hashlib.sha256((folder / "state.pth").read_bytes()).hexdigest()
    file = (folder / "state.pth").rename(folder / f"tiny_vit-{digest[:8]}.pth")
    prepare = partial(
        transforms._presets.ImageClassification, crop_size=64, mean=MEAN, std=STD,
        interpolation=transforms.InterpolationMode.BICUBIC,
    )  # fmt: skip
    weights = _api.WeightsEnum(
        "TinyWeights", {"DEFAULT": _api.Weights(url=file.as_uri(), transforms=prepare, meta={})}
    )
    tiny_vit.__annotations__["weights"] = weights | None
    patch.setitem(_api.BUILTIN_MODELS, "vit_tiny_test", tiny_vit)
    patch.setenv("TORCH_HOME", str(folder / "hub"))
    return "torchvision:vit_tiny_test", plain, file


def _torchvision_own(library: Library, size: int, n_classes: int) -> Any:
    from torchvision import models
    from torchvision.models.vision_transformer import interpolate_embeddings

    model = models.get_model("vit_tiny_test", image_size=size)
    model.load_state_dict(interpolate_embeddings(size, 16, library.plain.state_dict()))
    return model


def _hf(folder: Path, patch: pytest.MonkeyPatch) -> tuple[str, Any, Path]:
    transformers = pytest.importorskip("transformers")
    config = transformers.DeiTConfig(
        image_size=64, patch_size=16, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, num_labels=N_CLASSES,
    )  # fmt: skip
    plain = randomised(transformers.DeiTForImageClassification(config))
    plain.save_pretrained(folder / "deit")
    processor = {"image_mean": MEAN, "image_std": STD, "resample": 3}
    (folder / "deit" / "preprocessor_config.json").write_text(json.dumps(processor))
    return f"hf:{folder / 'deit'}", plain, folder / "deit" / "model.safetensors"


def _hf_own(library: Library, size: int, n_classes: int) -> Any:
    return lambda images: library.plain(images, interpolate_pos_encoding=True)
