"""The fast step against a plain one, written out in float64."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.test_training import make_run
from vit_patch_env.data.batches import Batch
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.patches.selection import mask_to_keep

pytestmark = pytest.mark.counts_flops

HEADS, DIM_HEAD, SIDE, PATCH = 2, 32, 4, 4


def plain_tokens(p, images, keep):
    patches = F.unfold(images, PATCH, stride=PATCH)  # (batch, channels * patch * patch, n_patches)
    patches = patches.unflatten(1, (3, PATCH, PATCH)).permute(0, 4, 2, 3, 1).flatten(2)[:, keep]
    x = F.layer_norm(patches, patches.shape[2:], p["embedding.0.weight"], p["embedding.0.bias"])
    x = F.linear(x, p["embedding.1.weight"], p["embedding.1.bias"])
    x = F.layer_norm(x, x.shape[2:], p["embedding.2.weight"], p["embedding.2.bias"])
    return x + p["positions"][keep]


def plain_attention(p, x, block):
    name = f"blocks.{block}.attention"
    x = F.layer_norm(x, x.shape[2:], p[f"{name}.norm.weight"], p[f"{name}.norm.bias"])
    query, key, value = (
        part.unflatten(2, (HEADS, DIM_HEAD)).transpose(1, 2)
        for part in F.linear(x, p[f"{name}.to_qkv.weight"]).chunk(3, dim=2)
    )
    weights = torch.softmax(query @ key.transpose(2, 3) / DIM_HEAD**0.5, dim=3)
    return F.linear((weights @ value).transpose(1, 2).flatten(2), p[f"{name}.to_out.weight"])


def plain_logits(p, images, keep, depth):
    x = plain_tokens(p, images, keep)
    for block in range(depth):
        x = x + plain_attention(p, x, block)
        norm, up, down = (f"blocks.{block}.mlp.{i}" for i in (0, 1, 3))
        y = F.layer_norm(x, x.shape[2:], p[f"{norm}.weight"], p[f"{norm}.bias"])
        y = F.gelu(F.linear(y, p[f"{up}.weight"], p[f"{up}.bias"]))
        x = x + F.linear(y, p[f"{down}.weight"], p[f"{down}.bias"])
    x = F.layer_norm(x, x.shape[2:], p["norm.weight"], p["norm.bias"])
    return F.linear(x.mean(dim=1), p["head.weight"], p["head.bias"])


def assert_equal(ours, plain):
    assert ours.shape == plain.shape
    assert (ours - plain).norm() <= 1e-5 * plain.norm()


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.booleans(), min_size=SIDE**2, max_size=SIDE**2).filter(any),
    st.integers(1, 5), st.integers(0, 2**31),
)  # fmt: skip
@pytest.mark.parametrize("depth", [1, 3])
def test_the_fast_step_equals_a_plain_one(depth, mask, batch_size, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        run = make_run(
            model=SimpleViT(
                n_classes=4, image_size=SIDE * PATCH, dim=32, depth=depth, heads=HEADS,
                dim_head=DIM_HEAD, mlp_dim=64,
            ), seed=seed,
        )  # fmt: skip
        # Not the stream's: a patch of the crop's border is constant, its LayerNorm mere rounding.
        images = torch.randn(batch_size, 3, SIDE * PATCH, SIDE * PATCH)
    model, batch = run.trainer.model, Batch(images, torch.arange(batch_size) % 4)
    before = {
        name: value.detach().double().requires_grad_()
        for name, value in copy.deepcopy(model).named_parameters()
    } | {"positions": model.positions.double()}
    keep = mask_to_keep(np.array(mask))

    everything = torch.arange(SIDE**2)
    attended = plain_attention(before, plain_tokens(before, batch.images.double(), everything), 0)
    assert_equal(run.observe(batch.images), attended.mean(dim=(0, 2)))

    loss = run.trainer.step(batch, keep)
    plain_loss = F.cross_entropy(
        plain_logits(before, batch.images.double(), keep, depth), batch.labels
    )
    plain_loss.backward()
    assert_equal(loss, plain_loss)
    for name, weight in model.named_parameters():
        assert_equal(weight.grad, before[name].grad)
