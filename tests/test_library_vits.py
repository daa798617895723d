"""Other libraries' ViTs on chosen patches, compared with the libraries' own computation."""

import copy

import pytest
import torch
from torch.nn import functional as F

from tests.library_vits import KINDS, SIZE, logits_of, make_plain, reference
from vit_patch_env import select_patches
from vit_patch_env.training.flops import FlopCount

every_kind = pytest.mark.parametrize("kind", KINDS)

KEEP = torch.tensor([0, 3, 4, 9, 15])
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def random_images(batch=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, SIZE, SIZE, generator=generator)


@pytest.mark.one_in(2)
@every_kind
@pytest.mark.parametrize("training", [True, False])
def test_all_patches_give_the_logits_of_the_library(kind, training):
    plain = make_plain(kind).train(training)
    model, images = select_patches(copy.deepcopy(plain)).train(training), random_images()
    logits = []
    for forward in (lambda: logits_of(plain, images), lambda: model(images)):
        torch.manual_seed(0)  # of dropout and stochastic depth
        logits.append(forward())
    torch.testing.assert_close(logits[1], logits[0], **CLOSE)
    torch.manual_seed(0)
    torch.testing.assert_close(model(images, torch.arange(16)), logits[0], **CLOSE)


@every_kind
def test_some_patches_give_what_the_library_computes_from_their_tokens(kind):
    plain = make_plain(kind).eval()
    model, images = select_patches(plain), random_images()
    expected = reference(kind, plain, images, KEEP, model.n_prefix_tokens)
    torch.testing.assert_close(model(images, KEEP), expected, **CLOSE)
    assert not torch.allclose(model(images), expected, atol=1e-4)


@every_kind
def test_each_image_may_keep_its_own_patches(kind):
    model, images = select_patches(make_plain(kind)).eval(), random_images()
    keep = torch.stack([KEEP, torch.arange(5), torch.arange(11, 16)])
    alone = [model(images[i : i + 1], keep[i]) for i in range(3)]
    torch.testing.assert_close(model(images, keep), torch.cat(alone), **CLOSE)


@pytest.mark.one_in(2)
@every_kind
@pytest.mark.parametrize("per_image", [False, True])
def test_gradients_are_those_of_the_library_s_computation(kind, per_image):
    plain = make_plain(kind).eval()  # without dropout
    images, labels = random_images(), torch.tensor([0, 1, 2])
    other = copy.deepcopy(plain)
    model = select_patches(plain)
    keep = KEEP.expand(3, -1) if per_image else KEEP
    F.cross_entropy(model(images, keep), labels).backward()
    F.cross_entropy(reference(kind, other, images, KEEP, model.n_prefix_tokens), labels).backward()
    for (name, weight), expected in zip(plain.named_parameters(), other.parameters(), strict=True):
        if expected.grad is None or not expected.numel():  # a mask token, no class token
            assert weight.grad is None or not weight.grad.any(), name
        else:
            torch.testing.assert_close(weight.grad, expected.grad, atol=1e-5, rtol=1e-3)
    assert sum(weight.grad is None for weight in plain.parameters()) <= 1


@pytest.mark.one_in(4)
@every_kind
def test_weights_go_back_into_the_plain_model(kind):
    model = select_patches(make_plain(kind)).eval()
    plain = make_plain(kind, seed=1).eval()
    plain.load_state_dict(model.plain_model.state_dict())
    images = random_images()
    torch.testing.assert_close(logits_of(plain, images), model(images), **CLOSE)


@every_kind
def test_only_kept_pixels_are_embedded(kind):
    model, images = select_patches(make_plain(kind)).eval(), random_images()
    changed = images.clone()
    changed[:, :, 8:16] = 9
    keep = torch.tensor([0, 1, 3, 9, 15])  # none in the second row
    same = torch.equal(model(images, keep), model(changed, keep))
    assert same == (kind != "torchvision:stem")  # whose convolutions overlap


@pytest.mark.one_in(12)
@every_kind
def test_flops_fall_with_the_patches(kind):
    counter = FlopCount(select_patches(make_plain(kind)))
    images = random_images()
    few, half, whole = (counter.train_step(images, n) for n in (4, 8, None))
    assert not counter.computed  # the shapes are enough
    assert 0 < few < half < whole


@pytest.mark.one_in(4)
@every_kind
def test_bf16_and_copies(kind):
    model = copy.deepcopy(select_patches(make_plain(kind))).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(random_images(), KEEP)
        assert model.first_attention(random_images()).shape == (3, 16, logits_dim(kind))
    logits.float().sum().backward()
    assert logits.isfinite().all()


def logits_dim(kind):
    return 32 if kind.startswith("eva") else 24


@every_kind
def test_layers_of_parameters(kind):
    model = select_patches(make_plain(kind))
    layers = {name: model.layer_of(name) for name, _ in model.named_parameters()}
    assert layers == {
        f"plain_model.{name}": model.layer_of(name)
        for name, _ in model.plain_model.named_parameters()
    }
    assert set(layers.values()) == {0, 1, 2, 3, 4}
    for name, layer in layers.items():
        if any(word in name for word in ("token", "patch_embed", "pos_embed", "conv_proj")):
            assert layer == 0, name
        if any(word in name for word in ("head", "classifier")):
            assert layer == 4, name


def test_patches_of_a_block_of_code_are_used_and_forgotten():
    model, images = select_patches(make_plain("timm:class-token")).eval(), random_images()
    with model.patches(KEEP):
        with model.patches(None):
            whole = model(images)
        some = model(images)
    torch.testing.assert_close(whole, model(images))
    torch.testing.assert_close(some, model(images, KEEP))
    with pytest.raises(ZeroDivisionError), model.patches(KEEP):
        raise ZeroDivisionError
    torch.testing.assert_close(whole, model(images))


def test_gradient_checkpointing_of_timm_is_kept():
    plain = make_plain("timm:class-token")
    model, images = select_patches(plain).train(), random_images()
    expected = model(images, KEEP)
    plain.set_grad_checkpointing()
    calls = []
    plain.blocks[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    logits = model(images, KEEP)
    torch.testing.assert_close(logits, expected)
    logits.sum().backward()
    assert len(calls) == 2  # forward, and again backward


def test_activation_checkpointing_of_hugging_face_is_that_of_the_library():
    plain = make_plain("hf:ViT")
    model, images = select_patches(plain).train(), random_images()
    expected = model(images, KEEP)
    enable = "activation_checkpointing_enable"
    getattr(model, enable if hasattr(plain, enable) else "gradient_checkpointing_enable")()
    calls = []
    plain.vit.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    logits = model(images, KEEP)
    torch.testing.assert_close(logits, expected)
    logits.sum().backward()
    assert len(calls) == 2  # forward, and again backward


def test_hugging_face_takes_what_its_trainer_gives():
    plain = make_plain("hf:ViT").eval()
    model, images, labels = select_patches(plain), random_images(), torch.tensor([0, 4, 2])
    expected = plain(pixel_values=images, labels=labels)
    output = model(pixel_values=images, labels=labels)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output["logits"], expected["logits"])
    assert model(pixel_values=images).loss is None
    with model.patches(KEEP):
        some = model(pixel_values=images).logits
    torch.testing.assert_close(some, model(images, KEEP))


@pytest.mark.parametrize(
    ("shape", "keep", "message"),
    [
        ((3, 3, 40, 40), None, r"shape \(batch, 3, 32, 32\), got \(3, 3, 40, 40\)"),
        ((3, 1, 32, 32), None, r"shape \(batch, 3, 32, 32\), got \(3, 1, 32, 32\)"),
        ((3, 3, 32, 32), torch.zeros(2, 4), r"keep must have shape .* \(3, n_keep\), got \(2, 4\)"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_one_line(shape, keep, message):
    model = select_patches(make_plain("vit_pytorch:ViT"))
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape), keep)
