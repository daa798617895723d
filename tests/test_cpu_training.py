"""Attention of libraries' ViTs in training steps on a CPU in bf16."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.library_vits import make_plain
from tests.test_library_vits import KEEP, random_images
from vit_patch_env import select_patches
from vit_patch_env.models.families.cpu_training import PlainAttention, quick_attention

KINDS = ("timm:class-token", "torchvision:plain", "hf:ViT", "eva:rope")


def kernels(model, images, dtype=torch.bfloat16):
    """Names of the operators of a training step."""
    with torch.profiler.profile() as profile:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = model(images, KEEP)
        logits.float().sum().backward()
    return {one.key for one in profile.key_averages()}


def uses_torchs_kernel(model, images, **options):
    return any("flash_attention" in name for name in kernels(model, images, **options))


@pytest.mark.parametrize(
    "options", [{}, {"scale": 0.3}, {"is_causal": True}, {"attn_mask": torch.eye(5).log()}]
)
def test_attention_is_that_of_torch(options):
    inputs = [torch.randn(2, 3, 5, 8, requires_grad=True) for _ in range(3)]
    expected = F.scaled_dot_product_attention(*inputs, **options)
    with PlainAttention():
        found = F.scaled_dot_product_attention(*inputs, **options)
    torch.testing.assert_close(found, expected)


def test_dropout_of_attention_is_that_of_its_weights():
    ones = torch.ones(1, 1, 1000, 4)
    with PlainAttention():
        found = F.scaled_dot_product_attention(ones, ones, ones, dropout_p=0.5)
    assert found.mean() == pytest.approx(1, abs=0.1)
    assert found.std() > 0.01


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_modules_of_torch_have_the_same_output_and_gradient(batch_first):
    module = nn.MultiheadAttention(16, 2, batch_first=batch_first)
    tokens = torch.randn(3, 5, 16)
    found = []
    for context in (torch.enable_grad(), PlainAttention()):
        module.zero_grad()
        with context:
            output, weights = module(tokens, tokens, tokens, need_weights=False)
        output.square().sum().backward()
        assert weights is None
        found.append((output, module.in_proj_weight.grad.clone()))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", KINDS)
def test_training_in_bf16_is_without_torchs_kernel_and_otherwise_as_it_was(kind):
    plain, images = make_plain(kind), random_images()
    model = select_patches(plain).train()
    assert not uses_torchs_kernel(model, images)
    assert uses_torchs_kernel(model, images, dtype=torch.float32)
    model.eval()
    assert uses_torchs_kernel(model, images)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_in_bf16_are_those_in_fp32(kind):
    plain, images = make_plain(kind), random_images()
    model, found = select_patches(plain).train(), []
    for enabled in (False, True):
        plain.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(images, KEEP).float()
        F.cross_entropy(logits, torch.tensor([0, 4, 2])).backward()
        gradients = torch.cat([one.grad.flatten() for one in plain.parameters()])
        found.append((logits.detach(), gradients))
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() < 0.03 * one.norm()


@pytest.mark.parametrize("kind", ["timm:class-token", "hf:ViT"])
def test_blocks_that_are_computed_again_are_so_by_the_same_kernel(kind):
    plain, images = make_plain(kind), random_images()
    if kind.startswith("timm"):
        plain.set_grad_checkpointing()
    else:
        plain.train().activation_checkpointing_enable()
    assert uses_torchs_kernel(select_patches(plain).train(), images)


def test_nothing_is_replaced_without_gradients_or_bf16():
    images = random_images()
    assert not isinstance(quick_attention(images), PlainAttention)
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(quick_attention(images), PlainAttention)
        with torch.no_grad():
            assert not isinstance(quick_attention(images), PlainAttention)
