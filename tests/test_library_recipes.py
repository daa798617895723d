"""Models of other libraries with the training recipe, observations of layers and flat images."""

import pytest
import torch

from tests.library_vits import make_classifier
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.training.parameter_groups import parameter_groups

ARGUMENTS = {
    "dataset": "synthetic", "val_fraction": 0.5, "batch_size": 16, "epochs": 1, "image_size": 32,
    "patch_size": 8, "device": "cpu", "precision": "fp32",
}  # fmt: skip

KINDS = ("timm:class-token", "eva:rope", "torchvision:plain", "hf:Dinov2", "vit_pytorch:ViT")


def make(kind):
    """A function of the classes and channels."""
    return lambda n_classes, channels: make_classifier(kind, n_classes)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", KINDS)
def test_frozen_parts_layers_and_weight_decay_of_libraries_models(kind):
    env = ViTPatchSelectEnv(
        **ARGUMENTS, model=make(kind), freeze=("embedding", "blocks:0"), layer_decay=0.5,
        decay_norms=False, weight_decay=0.1, ema=0.9, clip_grad_norm=1.0, accumulate=2,
        observation="attention_output:0,2+run",
    )  # fmt: skip
    observation, _ = env.reset(seed=0)
    assert observation.shape == (19,)
    model = env.episode.model
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for step in range(4):
        mask = torch.zeros(16, dtype=torch.int8)
        mask[: 4 * (step + 1)] = 1
        env.step(mask.numpy())
    changed = {
        name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])
    }
    layers = {name: model.layer_of(name) for name in before}
    assert not {name for name in changed if layers[name] < 2}
    assert {layers[name] for name in changed} == {2, 3, 4}
    rates = {
        layers[name]: group["lr"]
        for group in parameter_groups(model, learning_rate=1.0, layer_decay=0.5)
        for name, weight in model.named_parameters()
        if any(weight is one for one in group["params"])
    }
    assert rates == {2: 0.25, 3: 0.5, 4: 1.0}


def test_names_of_the_library_freeze_its_parameters():
    pytest.importorskip("timm")
    env = ViTPatchSelectEnv(**ARGUMENTS, model=make("timm:class-token"), freeze=("blocks.*.mlp.*",))
    env.reset(seed=0)
    frozen = {name for name, one in env.episode.model.named_parameters() if not one.requires_grad}
    assert len(frozen) == 12
    assert all(".mlp." in name for name in frozen)


def test_the_class_token_s_attention_is_observed():
    pytest.importorskip("timm")
    arguments = ARGUMENTS | {"observation": "class_attention"}
    env = ViTPatchSelectEnv(**arguments, model=make("timm:class-token"))
    observation, _ = env.reset(seed=0)
    assert observation.shape == (16,)
    assert 0 < observation.sum() < 1
    with pytest.raises(ValueError, match="class_attention needs a model with a class token"):
        ViTPatchSelectEnv(**arguments, model=make("timm:no-class-token")).reset(seed=0)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_vit4"])
def test_flat_images_are_trained_on_a_flat_grid(name):
    pytest.importorskip("timm")
    env = ViTPatchSelectEnv(**ARGUMENTS | {"image_size": (32, 64), "patch_size": 16}, model=name)
    assert env.grid == (2, 4)
    env.reset(seed=0)
    _, reward, *_ = env.step([1, 0, 0, 1, 0, 1, 0, 0])
    assert torch.tensor(reward).isfinite()
    assert env.episode.model.grid == (2, 4)
