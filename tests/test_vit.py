import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_patch_env.models.simple_vit import SimpleViT, sincos_positions
from vit_patch_env.patches.grid import patch_grid


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SimpleViT(n_classes=5, image_size=16, dim=16, depth=2, heads=2, dim_head=8, mlp_dim=32)


def test_the_papers_sizes_have_395_million_parameters():
    model = SimpleViT(n_classes=10)
    assert model.n_patches == 64
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(3.95e6, rel=0.01)


def test_shapes_of_the_contract(model):
    images = torch.rand(3, 3, 16, 16)
    assert model.n_patches == 16
    assert model(images).shape == (3, 5)
    assert model(images, torch.tensor([0, 7])).shape == (3, 5)
    assert model.first_attention(images).shape == (3, 16, 16)
    assert model.first_attention_weights(images).shape == (3, 2, 16, 16)


def test_keeping_all_patches_equals_no_selection(model):
    images = torch.rand(3, 3, 16, 16)
    assert torch.equal(model(images), model(images, torch.arange(16)))


@settings(deadline=None, max_examples=25)
@given(st.sets(st.integers(0, 15), min_size=1, max_size=15), st.integers(0, 2**31))
def test_dropped_pixels_change_nothing(kept, seed):
    generator = torch.Generator().manual_seed(seed)
    model = SimpleViT(n_classes=5, image_size=16, dim=16, depth=2, heads=2, dim_head=8, mlp_dim=32)
    images = torch.rand(2, 3, 16, 16, generator=generator)
    changed = images.clone()
    for patch in set(range(16)) - kept:
        y, x = 4 * (patch // 4), 4 * (patch % 4)
        changed[:, :, y : y + 4, x : x + 4] = 9.0
    keep = torch.tensor(sorted(kept))
    assert torch.equal(model(images, keep), model(changed, keep))
    assert not torch.allclose(model(images), model(changed))


def test_dropped_patches_get_no_gradient(model):
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    model(images, torch.tensor([5])).sum().backward()
    seen = images.grad.abs().sum(dim=(0, 1)) > 0
    assert seen[4:8, 4:8].all()
    assert seen.sum() == 16


def test_positions_distinguish_patches(model):
    images = torch.full((1, 3, 16, 16), 0.5)
    outputs = [model(images, torch.tensor([patch])) for patch in range(16)]
    assert len({tuple(output[0].tolist()) for output in outputs}) == 16


def test_first_attention_weights_are_distributions(model):
    weights = model.first_attention_weights(torch.rand(3, 3, 16, 16))
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(-1), torch.ones(3, 2, 16), atol=1e-5)


def test_attention_equals_torchs_own(model):
    attention = model.blocks[0].attention
    tokens = torch.rand(2, 7, 16)
    query, key, value = (
        part.unflatten(-1, (2, 8)).transpose(1, 2)
        for part in attention.to_qkv(attention.norm(tokens)).chunk(3, dim=-1)
    )
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    expected = attention.to_out(out.transpose(1, 2).flatten(2))
    assert torch.allclose(attention(tokens), expected, atol=1e-6)


def test_sincos_positions_are_the_published_ones():
    """Against the formula written out for one position (Beyer et al. 2022)."""
    positions = sincos_positions(2, 3, 8)
    assert positions.shape == (6, 8)
    y, x, omega = 1.0, 2.0, torch.tensor([1.0, 1e-4])
    expected = torch.cat(
        [(x * omega).sin(), (x * omega).cos(), (y * omega).sin(), (y * omega).cos()]
    )
    assert torch.allclose(positions[5], expected)


def test_sincos_positions_of_the_smallest_dim_are_finite():
    assert sincos_positions(2, 2, 4).isfinite().all()


@pytest.mark.parametrize("dim", [30, 6])
def test_dim_must_be_divisible_by_four(dim):
    with pytest.raises(ValueError, match=f"dim must be divisible by 4, got {dim}"):
        SimpleViT(n_classes=2, dim=dim)


@pytest.mark.parametrize(("image_size", "patch_size"), [(32, 5), (4, 8), (32, 0)])
def test_image_size_must_be_divisible_by_patch_size(image_size, patch_size):
    with pytest.raises(
        ValueError, match=f"got image_size {image_size} and patch_size {patch_size}"
    ):
        patch_grid(image_size, patch_size)
