import pytest
import torch

from vit_patch_env.observation import OBSERVATIONS, mean_attention_output, mean_attention_received
from vit_patch_env.vit import SimpleViT


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SimpleViT(n_classes=5, image_size=16, dim=16, depth=2, heads=2, dim_head=8, mlp_dim=32)


def test_mean_attention_output_is_the_mean_over_dim_and_batch(model):
    images = torch.rand(3, 3, 16, 16)
    expected = model.first_attention(images).mean(2).mean(0)
    assert torch.allclose(mean_attention_output(model, images), expected, atol=1e-7)


def test_mean_attention_received_is_shared_out_among_the_patches(model):
    received = mean_attention_received(model, torch.rand(3, 3, 16, 16))
    assert received.shape == (16,)
    assert received.sum().item() == pytest.approx(1, abs=1e-5)
    assert ((received >= 0) & (received <= 1)).all()


@pytest.mark.parametrize("name", list(OBSERVATIONS))
def test_observations_are_float32_within_their_bounds(name, model):
    observation = OBSERVATIONS[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = observation.function(model, torch.rand(3, 3, 16, 16))
    assert values.dtype == torch.float32
    assert ((values >= observation.low) & (values <= observation.high)).all()
