import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import OBSERVED, TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.checks import InputError
from vit_patch_env.models import make_model
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.observation import (
    FEATURES_AFTER_RUN,
    RUN_FEATURES,
    make_observation,
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


@pytest.mark.parametrize("name", OBSERVED)
def test_observations_are_float32_within_their_bounds(name, model):
    observation = make_observation(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = observation.function(model, torch.rand(3, 3, 16, 16))
    assert values.dtype == torch.float32
    space = observation.space(16)
    assert (values.detach().numpy() >= space.low[:16]).all()
    assert (values.detach().numpy() <= space.high[:16]).all()


def test_zeros_has_a_zero_for_every_patch(model):
    assert torch.equal(zeros(model, torch.rand(3, 3, 16, 16)), torch.zeros(16))


@pytest.mark.parametrize("name", OBSERVED)
def test_spaces_have_the_patches_and_the_run(name):
    observation = make_observation(name)
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
    assert np.concatenate((np.zeros(9, np.float32), values)) in make_observation("none+run").space(
        9
    )


def test_run_features_are_in_order():
    assert run_features(0.25, 3, 0.5).tolist() == [0.25, 3, 0.5]
    assert FEATURES_AFTER_RUN.tolist() == [1, 0, 1]


SIZES = {"image_size": 16, "dim": 16, "depth": 3, "heads": 2, "dim_head": 8, "mlp_dim": 32}
FULL = ["simple_vit", "vit", "patch_dropout", "token_expansion"]
REDUCING = ["ats_vit", "evit", "tome", "patch_merger"]


def made(name, **changes):
    torch.manual_seed(0)
    model = make_model(name, n_classes=5, **SIZES | changes).eval()
    for parameter in model.parameters():  # so that no weight, such as the class token, is zero
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def outputs_by_hooks(model, images):
    """The output of every attention layer in a forward pass: (n_layers, batch, n_patches, dim)."""
    found = []
    hooks = [
        block.attention.to_out.register_forward_hook(lambda *args: found.append(args[2]))
        for block in model.blocks
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return torch.stack(found)[:, :, model.n_prefix_tokens :]


@pytest.mark.parametrize("name", FULL)
def test_attention_outputs_are_those_of_a_forward_pass(name):
    model, images = made(name), torch.rand(3, 3, 16, 16)
    expected = outputs_by_hooks(model, images)
    assert model.n_layers == 3
    for layers in ([0, 1, 2], [2], [0, 2], [1]):
        outputs = model.attention_outputs(images, layers)
        assert torch.allclose(outputs, expected[layers], atol=1e-6)
        mean = model.mean_attention_outputs(images, layers)
        assert torch.allclose(mean, expected[layers].mean(dim=(0, 1, 3)), atol=1e-6)


def test_several_layers_are_observed_by_their_mean():
    model, images = made("simple_vit"), torch.rand(3, 3, 16, 16)
    by_layer = [model.attention_outputs(images, [layer]).mean(dim=(0, 1, 3)) for layer in range(3)]
    observe = lambda text: make_observation(text).function(model, images)  # noqa: E731
    assert torch.allclose(
        observe("attention_output:0,2"), (by_layer[0] + by_layer[2]) / 2, atol=1e-6
    )
    assert torch.allclose(observe("attention_output:mean"), sum(by_layer) / 3, atol=1e-6)
    assert torch.equal(observe("attention_output:2,0"), observe("attention_output:0,2"))
    standardized = observe("attention_standardized:1")
    assert torch.allclose(
        standardized, (by_layer[1] - by_layer[1].mean()) / by_layer[1].std(correction=0), atol=1e-4
    )


class OwnModel(SimpleViT):
    """A model with the parts of the contract alone."""

    mean_first_attention = mean_attention_outputs = property()


def test_a_model_need_not_compute_means():
    torch.manual_seed(0)
    model, images = OwnModel(n_classes=5, **SIZES), torch.rand(3, 3, 16, 16)
    assert not hasattr(model, "mean_attention_outputs")
    torch.manual_seed(0)
    expected = make_observation("attention_output:0,1").function(
        SimpleViT(n_classes=5, **SIZES), images
    )
    found = make_observation("attention_output:0,1").function(model, images)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", [*FULL, *REDUCING])
def test_the_first_layer_named_by_its_number_is_the_usual_observation(name):
    model, images = made(name), torch.rand(3, 3, 16, 16)
    first, usual = (
        make_observation(text).function(model, images)
        for text in ("attention_output:0", "attention_output")
    )
    assert torch.equal(first, usual)


@pytest.mark.parametrize("name", ["vit", "ats_vit", "evit"])
def test_class_attention_is_the_softmax_of_the_class_tokens_row(name):
    model, images = made(name), torch.rand(3, 3, 16, 16)
    weights = model.blocks[0].attention.weights(model.embed(images))  # of all tokens
    attention = model.class_attention(images)
    assert attention.shape == (3, 16)
    assert torch.allclose(attention, weights[:, :, 0, 1:].mean(dim=1), atol=1e-6)
    observed = make_observation("class_attention").function(model, images)
    assert torch.allclose(observed, attention.mean(dim=0), atol=1e-7)
    assert 0 < observed.sum() < 1


@pytest.mark.parametrize("text", OBSERVED)
def test_the_first_images_of_a_batch_are_observed(text, model):
    images = torch.rand(5, 3, 16, 16)
    observe = make_observation(text, n_images=2).function
    expected = make_observation(text).function(model, images[:2])
    assert torch.equal(observe(model, images), expected)


@pytest.mark.long
def test_observing_fewer_images_and_earlier_layers_costs_less():
    def flops(**kwargs):
        env = ViTPatchSelectEnv(**TINY | {"depth": 3} | kwargs)
        env.reset(seed=0)
        train = env.episode.run.step_flops()
        env.step(np.ones(16, dtype=np.int8))
        return env.episode.flops() - train

    first, half = flops(), flops(observe_images=32)
    assert half == pytest.approx(first / 2, rel=1e-3)
    assert flops(observation="none") == 0
    first, second, third = (flops(observation=f"attention_output:{layer}") for layer in range(3))
    assert first < second < third == flops(observation="attention_output:0,1,2")


def test_evaluation_observes_as_training_does():
    env = ViTPatchSelectEnv(**TINY, observe_images=2)
    env.reset(seed=0)
    batch = env.data.val.images[:64]
    images = env.episode.run.stream.normalize(batch)
    expected = env.episode.run.observe(images[:2]).numpy()
    assert np.array_equal(env.episode.observe_split("val")[0], expected)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"observation": "pixels"}, "must be one of attention_output, .*, got 'pixels'"),
        ({"observation": "+run"}, r"must be one of .* with \+run at its end, got '\+run'"),
        ({"observation": "none+run+run"}, "must be one of"),
        ({"observation": 3}, "must be text, got 3"),
        ({"observation": "none:1"}, "has layers only as attention_output and .*, got 'none:1'"),
        ({"observation": "attention_received:mean"}, "has layers only as"),
        ({"observation": "attention_output:"}, "must name layers by numbers from 0, such as"),
        ({"observation": "attention_output:-1"}, "must name layers by numbers"),
        ({"observation": "attention_output:0, 1"}, "must name layers by numbers"),
        ({"observation": "attention_output:\u00b2"}, "must name layers by numbers"),
        ({"observation": "attention_output:last"}, "must name layers by numbers"),
        ({"observation": "attention_output:1,0,1"}, "must name each layer once, got 1 twice"),
        ({"observation": "attention_output:3", "depth": 3}, r"in \[0, 2\].*, got .*:3'"),
        ({"observation": "attention_output:99999"}, "must name layers by numbers"),
        ({"observe_images": 0}, "observe_images must be in"),
        ({"observe_images": 65}, r"observe_images must be in \[1, 64\], got 65"),
        (
            {"observation": "class_attention"},
            r"class_attention needs a model with a class token \(class_attention\), got simple_vit",
        ),
        (
            {"observation": "attention_output:mean", "model": "tome"},
            "attention_output:mean needs a model that has all patches in every layer, got tome",
        ),
    ],
)
def test_what_cannot_be_observed_is_refused_before_images_are_read(kwargs, message, monkeypatch):
    monkeypatch.setattr("vit_patch_env.episode_factory.load_dataset", None)
    with pytest.raises(InputError, match=message) as refused:
        ViTPatchSelectEnv(**TINY | kwargs)
    assert "\n" not in str(refused.value)


class Bare(torch.nn.Module):
    """A model with what the default observation needs."""

    n_patches = 16

    def __init__(self, n_classes, channels):
        super().__init__()
        self.inner = SimpleViT(
            n_classes=n_classes, channels=channels, patch_size=8, dim=16, depth=1
        )

    def forward(self, images, keep=None):
        return self.inner(images, keep)

    def first_attention(self, images):
        return self.inner.first_attention(images)


@pytest.mark.parametrize(
    ("text", "parts", "message"),
    [
        ("attention_received", {}, r"the weights of its first attention layer"),
        ("class_attention+run", {}, r"a class token \(class_attention\), got Bare"),
        ("attention_output:mean", {}, r"layers \(attention_outputs\), got Bare"),
        ("attention_output:mean", {"attention_outputs": len}, "with n_layers, got Bare"),
        (
            "attention_output:1",
            {"attention_outputs": len, "n_layers": 1},
            r"must name layers in \[0, 0\]",
        ),
    ],
)
def test_parts_that_a_users_model_lacks_are_named(text, parts, message):
    model = type("Bare", (Bare,), parts)
    env = ViTPatchSelectEnv(**TINY | {"model": model, "observation": text})
    with pytest.raises(InputError, match=message):
        env.reset(seed=0)
