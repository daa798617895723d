"""Training from given weights: the models are those that their libraries load themselves."""

import copy

import numpy as np
import pytest
import torch

from tests.library_vits import logits_of
from tests.weighted_vits import MEAN, SIZE, STD, Library
from vit_patch_env.checks import ArgumentError
from vit_patch_env.data import datasets
from vit_patch_env.data.sources import ArraySource, Parts

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(params=["timm", "torchvision", "hf"])
def library(request, tmp_path, monkeypatch):
    """Each family."""
    return Library(request.param, tmp_path, monkeypatch)


def random_images(size, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(2))


def given(library, kind):
    return {"pretrained": True} if kind == "published" else {"weights": str(library.file)}


def model_of(env):
    env.reset(seed=0)
    return env.unwrapped.episode.model.eval()


either = pytest.mark.parametrize("kind", ["published", "file"])


@pytest.mark.one_in(6)
@either
@pytest.mark.parametrize("size", [64, SIZE])
def test_logits_are_those_of_the_library_s_own_loading(library, kind, size):
    model = model_of(library.env(image_size=size, **given(library, kind)))
    images, own = random_images(size), library.own(size)
    if isinstance(own, torch.nn.Module):
        own.eval()
    torch.testing.assert_close(model(images), logits_of(own, images), **CLOSE)


@pytest.mark.one_in(3)
@either
def test_a_new_head_is_fresh_and_the_rest_loaded(library, kind):
    env = library.env(new_head=True, **given(library, kind))
    weights, before = model_of(env).plain_model.state_dict(), library.plain.state_dict()
    heads = model_of(env).head_names
    for name, weight in weights.items():
        assert torch.equal(weight, before[name]) != name.startswith(heads), name
    fresh = model_of(library.env()).plain_model.state_dict()
    head = [name for name in weights if name.startswith(heads)]
    assert head
    assert all(torch.equal(weights[name], fresh[name]) for name in head)  # of the same seed


@pytest.mark.one_in(2)
@either
def test_episodes_start_from_the_same_weights(library, kind):
    env = library.env(**given(library, kind))
    first = copy.deepcopy(model_of(env).plain_model.state_dict())
    env.step(env.action_space.sample())
    env.reset(seed=1)
    for name, weight in env.episode.model.plain_model.state_dict().items():
        assert torch.equal(weight, first[name])


@either
def test_images_are_prepared_as_those_that_the_weights_were_trained_on(library, kind):
    config = library.env(**given(library, kind)).config
    assert (config.mean, config.std, config.interpolation) == (MEAN, STD, "bicubic")
    own = library.env(mean=(0.1, 0.1, 0.1), interpolation="bilinear", **given(library, kind)).config
    assert (own.mean, own.std, own.interpolation) == ((0.1, 0.1, 0.1), STD, "bilinear")
    fresh = library.env().config
    assert (fresh.mean, fresh.std, fresh.interpolation) == (None, None, "bilinear")


@either
def test_a_head_of_other_classes_is_one_line_before_images_are_read(library, kind, monkeypatch):
    monkeypatch.setattr(ArraySource, "read", lambda *_: pytest.fail("images are read"))
    monkeypatch.setitem(datasets._LOADERS, "synthetic", of_two_classes)
    name = "pretrained" if kind == "published" else "weights"
    message = rf"{name} must have a head of 2 classes, as the data set, got 4 classes: new_head"
    with pytest.raises(ArgumentError, match=message):
        library.env(**given(library, kind)).reset()


def of_two_classes(request):
    labels = np.arange(40) % 2
    pixels = torch.zeros(40, 3, 64, 64, dtype=torch.uint8)
    return ArraySource(pixels, labels, Parts(np.arange(40)), ("a", "b"), request.form, flip=False)


@pytest.mark.one_in(3)
def test_weights_without_a_head_need_a_new_one(library, tmp_path):
    state = {
        name: one for name, one in library.plain.state_dict().items()
        if not name.startswith(("head.", "heads.", "classifier."))
    }  # fmt: skip
    torch.save(state, tmp_path / "backbone.pt")
    env = library.env(weights=str(tmp_path / "backbone.pt"))
    with pytest.raises(ArgumentError, match="got weights without a head: new_head trains a new"):
        env.reset()
    library.env(weights=str(tmp_path / "backbone.pt"), new_head=True).reset()


@pytest.mark.parametrize("missing", ["mlp", "bias"])
def test_missing_and_unknown_weights_are_named(library, tmp_path, missing):
    state = dict(library.plain.state_dict())
    names = [name for name in state if missing in name and not name.startswith(("head", "class"))]
    for name in names:
        del state[name]
    state["ema_step"] = torch.zeros(1)
    torch.save(state, tmp_path / "part.pt")
    message = rf"must be those of {library.name} in .*part.pt, got .*{names[0]}.*"
    with pytest.raises(ArgumentError, match=message) as error:
        library.env(weights=str(tmp_path / "part.pt")).reset()
    assert "ema_step" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_one_line(library, tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(
        ArgumentError, match=rf"must be those of {library.name} in .*, got "
    ) as error:
        library.env(weights=str(tmp_path / "other.pt")).reset()
    assert "\n" not in str(error.value)


def test_what_cannot_be_downloaded_is_one_line(library, monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    for place in (
        "timm.models._builder.load_state_dict_from_hf",
        "torchvision._internally_replaced_utils.load_state_dict_from_url",
        "torchvision.models._api.load_state_dict_from_url",
        "transformers.AutoModelForImageClassification.from_pretrained",
    ):
        monkeypatch.setattr(place, fail)
    message = (
        rf"pretrained needs the weights of {library.name}, from \S+, which could not be loaded: "
        "no network; weights takes a file with them"
    )
    with pytest.raises(ArgumentError, match=message):
        library.env(pretrained=True).reset()
