"""What an agent observes of other libraries' ViTs, compared with the libraries' own attention."""

import pytest
import torch
from torch import nn

from tests.library_vits import KINDS, make_plain
from tests.test_library_vits import CLOSE, random_images
from vit_patch_env import select_patches
from vit_patch_env.observation import mean_attention_output, mean_attention_received

every_kind = pytest.mark.parametrize("kind", KINDS)


def recorded(module, run):
    """The outputs of a module while a function runs."""
    outputs = []
    handle = module.register_forward_hook(
        lambda _module, _inputs, output: outputs.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    run()
    handle.remove()
    return outputs[0]


def probabilities(model, images):
    """The first layer's attention (batch, heads, n_tokens, n_tokens), computed by the library."""
    plain, attention = model.plain_model, model.attention_module(0)
    if hasattr(attention, "fused_attn"):
        attention.fused_attn = False
        return recorded(attention.attn_drop, lambda: plain(images))
    if hasattr(attention, "attend"):
        return recorded(attention.attend, lambda: plain(images))
    if isinstance(attention, nn.MultiheadAttention):
        normed = recorded(plain.encoder.layers[0].ln_1, lambda: plain(images))
        return attention(normed, normed, normed, average_attn_weights=False)[1]
    plain.set_attn_implementation("eager")
    return plain(images, output_attentions=True).attentions[0]


@every_kind
def test_attention_outputs_are_those_of_the_library(kind):
    model, images = select_patches(make_plain(kind)).eval(), random_images()
    with torch.no_grad():
        expected = torch.stack(
            [
                recorded(model.attention_module(i), lambda: model.plain_model(images))
                for i in range(3)
            ]
        )[:, :, model.n_prefix_tokens :]
        torch.testing.assert_close(model.first_attention(images), expected[0], **CLOSE)
        assert model.n_layers == 3
        for layers in ([0, 1, 2], [2, 0], [1]):
            outputs = model.attention_outputs(images, layers)
            torch.testing.assert_close(outputs, expected[layers], **CLOSE)
        torch.testing.assert_close(
            mean_attention_output(model, images), expected[0].mean(dim=(0, 2)), **CLOSE
        )
    assert not any(module._forward_hooks for module in model.modules())


@every_kind
@torch.no_grad()
def test_attention_weights_are_those_of_the_library(kind):
    model, images = select_patches(make_plain(kind)).eval(), random_images()
    first = model.n_prefix_tokens
    weights = probabilities(model, images)
    among = weights[:, :, first:, first:]
    expected = among / among.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(model.first_attention_weights(images), expected, **CLOSE)
    assert mean_attention_received(model, images).sum() == pytest.approx(1)
    if model.has_class_token:
        of_class = weights[:, :, 0, first:].mean(dim=1)
        torch.testing.assert_close(model.class_attention(images), of_class, **CLOSE)
    else:
        with pytest.raises(ValueError, match="class_attention needs a model with a class token"):
            model.class_attention(images)


@pytest.mark.parametrize("layers", [[3], [0, -1]])
def test_layers_out_of_range_are_one_line(layers):
    model = select_patches(make_plain("vit_pytorch:ViT"))
    with pytest.raises(ValueError, match=rf"layers must be in \[0, 2\], got {layers[-1]}"):
        model.attention_outputs(random_images(), layers)


def test_blocks_without_an_attention_of_their_own_train_but_are_not_observed():
    timm = pytest.importorskip("timm")
    plain = timm.create_model(
        "vit_base_patch16_xp_224", img_size=32, embed_dim=24, depth=1, num_heads=2
    )
    model, images = select_patches(plain), random_images()
    assert model(images, torch.tensor([2])).shape == (3, 1000)
    with pytest.raises(ValueError, match="attention layer of its own, got ParallelScalingBlock"):
        model.first_attention(images)
