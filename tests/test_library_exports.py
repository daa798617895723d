"""Trained models, ours and libraries', compiled, exported and run elsewhere."""

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from tests.library_vits import make_classifier
from vit_patch_env import ViTPatchSelectEnv, select_patches

LIBRARIES = ("timm:class-token", "hf:Dinov2", "torchvision:plain", "eva:rope", "vit_pytorch:ViT")
TOLERANCE = 1e-4
"""Of logits, in which kernels that sum in another order differ by far less."""


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trained(name):
    """A model after three training steps on different patches."""
    sizes = {} if name == "simple_vit" else dict.fromkeys(("dim", "depth", "heads", "dim_head"))
    if name != "simple_vit":
        sizes |= {"mlp_dim": None, "model": lambda n, _channels: make_classifier(name, n)}
    env = ViTPatchSelectEnv(**TINY | {"observation": "none"} | sizes)
    env.reset(seed=0)
    for n_keep in (16, 8, 5):
        env.step(np.arange(16) < n_keep)
    return env.episode.model.eval()


def expected(model, images):
    with torch.no_grad():
        return model(images)


@pytest.mark.long
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_trained_model_is_exported_with_any_number_of_images(name, images, tmp_path):
    model = trained(name)
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, (images,), dynamic_shapes={"images": batch})
    torch.export.save(program, tmp_path / "vit.pt2")
    exported = torch.export.load(tmp_path / "vit.pt2").module()
    for n_images in (2, 3):
        difference = exported(images[:n_images]) - expected(model, images[:n_images])
        assert difference.abs().max() < TOLERANCE


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter's own parts
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("name", [*LIBRARIES, "simple_vit"])
def test_a_trained_model_runs_in_onnxruntime(name, images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, path = trained(name), str(tmp_path / "vit.onnx")
    batch = {0: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        model, (images,), path, dynamo=True, dynamic_shapes={"images": batch}, verbose=False
    )
    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    for n_images in (2, 3):
        (logits,) = session.run(None, {given.name: images[:n_images].numpy()})
        difference = torch.from_numpy(logits) - expected(model, images[:n_images])
        assert difference.abs().max() < TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("name", ["simple_vit", *LIBRARIES])
def test_a_compiled_model_equals_the_model_on_any_number_of_patches(name, images):
    """By torch's own compiler, which compiles once more where a size becomes one of many."""
    torch.compiler.reset()
    model = trained(name)
    compiled = torch.compile(model, dynamic=True)
    for n_keep in (16, 12, 7, 3):
        keep = torch.arange(n_keep)
        with torch.no_grad():
            difference = compiled(images, keep) - model(images, keep)
        assert difference.abs().max() < TOLERANCE


def test_weights_of_a_trained_model_go_back_into_the_library_s():
    plain = make_classifier("timm:class-token", 4)
    model = trained("timm:class-token")
    plain.load_state_dict(model.plain_model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(expected(plain.eval(), images), expected(model, images), atol=1e-5)
    assert select_patches(plain).plain_model is plain
