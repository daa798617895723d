import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.observation import (
    FEATURES_AFTER_RUN,
    OBSERVATIONS,
    RUN_FEATURES,
    mean_attention_output,
    mean_attention_received,
    run_features,
    zeros,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SimpleViT(n_classes=5, image_size=16, dim=16, depth=2, heads=2, dim_head=8, mlp_dim=32)


def test_mean_attention_output_is_the_mean_over_dim_and_batch(model):
    images = torch.rand(3, 3, 16, 16)
    expected = model.first_attention(images).mean(2).mean(0)
    assert torch.allclose(mean_attention_output(model, images), expected, atol=1e-7)


def test_mean_attention_received_sums_to_one_over_the_patches(model):
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
    space = observation.space(16)
    assert (values.detach().numpy() >= space.low[:16]).all()
    assert (values.detach().numpy() <= space.high[:16]).all()


def test_zeros_has_a_zero_for_every_patch(model):
    assert torch.equal(zeros(model, torch.rand(3, 3, 16, 16)), torch.zeros(16))


@pytest.mark.parametrize("name", list(OBSERVATIONS))
def test_spaces_have_the_patches_and_the_run(name):
    observation = OBSERVATIONS[name]
    space = observation.space(16)
    assert space.shape == (16 + RUN_FEATURES * name.endswith("+run"),)
    assert space.dtype == np.float32
    low, high = observation.bounds(16)
    assert (space.low[:16] == np.float32(low)).all()
    assert (space.high[:16] == np.float32(high)).all()
    if observation.with_run:
        assert space.low[16:].tolist() == [0, 0, 0]
        assert space.high[[16, 18]].tolist() == [1, 1]


figures = st.floats(0, 1e300) | st.just(float("inf"))


@given(figures, figures, figures)
def test_run_features_are_float32_within_their_bounds(progress, ratio, share):
    values = run_features(progress, ratio, share)
    assert values.dtype == np.float32
    assert values.shape == (RUN_FEATURES,)
    assert np.concatenate((np.zeros(9, np.float32), values)) in OBSERVATIONS["none+run"].space(9)


def test_run_features_are_in_order():
    assert run_features(0.25, 3, 0.5).tolist() == [0.25, 3, 0.5]
    assert FEATURES_AFTER_RUN.tolist() == [1, 0, 1]
