"""Runs that are loaded to be used: the same metrics as in result.json, without their images."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from stable_baselines3.common.utils import set_random_seed
from torch.nn import functional as F

from tests.conftest import TINY_OPTIONS
from tests.wide_pictures import wide_pictures
from vit_patch_env import load_run
from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.experiments.runs.environment import make_env

AGENTS = {
    "paper": ["paper"],
    "ppo-mask": ["ppo"],
    "dqn-count": ["dqn", "--actions", "count"],
    "random": ["random"],
    "branching": ["branching", "--observation", "attention_received+run"],
    "bandit": ["bandit"],
    "pretrained": ["pretrained"],
    "sac-top_k": ["sac", "--actions", "top_k", "--sb3", "buffer_size=64"],
    "recurrent": ["recurrentppo", "--actions", "count"],
    "masked": ["maskableppo"],
    "schedule": ["quadratic", "--sampling", "spread"],
    "attended": ["attended", "--observation", "class_attention", "--model", "vit"],
    "some images": ["attended", "--observation", "attention_output", "--observe-images", "3"],
    "non-square": ["random", "--image-size", "32", "48"],
    "vit_pytorch": ["random", "--model", "vit_pytorch:SimpleViT"],
    "balanced": ["bandit", "--class-weights", "balanced", "--ema", "0.9", "--mixup", "0.2"],
    "flops": ["bandit", "--budget", "flops", "--reward", "validation", "--augment", "none"],
}
"""Agents of all kinds, on other observations, sizes and recipes."""


def trained(folder, *options):
    """A run in a folder, and the test images that it was evaluated on."""
    out = folder / "run"
    main(["train", *TINY_OPTIONS, "--epochs", "1", "--out", str(out), *options])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        env = make_env(RunFolder(out).options.env)
        test = env.data.test
    return out, test


def assert_same_metrics(run, test, result):
    for patches in ("all", "agent"):
        made = run.predict(test.images, patches)
        expected = result["test"][f"{patches}_patches"]
        assert F.cross_entropy(made.logits, test.labels).item() == expected["loss"]
        assert (made.labels == test.labels).double().mean().item() == expected["accuracy"]
        assert made.classes == [run.classes[label] for label in made.labels.tolist()]
        assert torch.equal(made.probabilities, made.logits.softmax(dim=1))


@pytest.mark.one_in(20)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of short runs
@pytest.mark.parametrize("agent", AGENTS)
def test_a_loaded_run_has_the_run_s_test_metrics_exactly(agent, tmp_path):
    if agent == "vit_pytorch":
        pytest.importorskip("vit_pytorch")
    out, test = trained(tmp_path, "--agent", *AGENTS[agent])
    result = json.loads((out / "result.json").read_text())
    moved = shutil.move(out, tmp_path / "elsewhere")
    run = load_run(moved)
    assert_same_metrics(run, test, result)
    assert_same_metrics(run, test, result)  # a prediction changes nothing


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory):
    """A run on pictures of another shape than its images, and those pictures, which have moved."""
    root = tmp_path_factory.mktemp("pictures")
    options = wide_pictures(root / "images", ("cat", "dog"))
    options += ["--resize", "pad", "--interpolation", "bicubic", "--val-fraction", "0.5"]
    out, test = trained(root, *options, "--batch-size", "20", "--agent", "bandit")
    shutil.move(root / "images", root / "moved")
    return out, test, sorted((root / "moved" / "test").rglob("*.png"))


def test_pictures_become_what_they_were_in_training(of_pictures):
    out, test, pictures = of_pictures
    run = load_run(out)
    made = {tuple(run.preprocess.pixels(path).flatten().tolist()) for path in pictures}
    assert made == {tuple(one.flatten().tolist()) for one in test.images[:]}


def test_an_image_is_predicted_the_same_in_every_form(of_pictures):
    out, _, pictures = of_pictures
    run = load_run(out)
    array = np.asarray(Image.open(pictures[0]))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms = [array, tensor, Image.open(pictures[0]), tensor.float() / 255]
    made = run.predict(forms).logits
    assert torch.allclose(made, made[:1].expand_as(made), atol=1e-5)
    assert torch.allclose(run.predict(np.stack([array, array])).logits, made[:2])
    assert len(run.predict(pictures[0]).classes) == 1
    assert len(run.predict([]).classes) == 0


def test_select_gives_the_agent_s_patches_of_a_batch(of_pictures):
    out, test, _ = of_pictures
    run = load_run(out)
    images = run.normalize(test.images[:20])
    keep = run.select(images)
    assert keep is None or (keep.dtype == torch.int64 and keep.diff().gt(0).all())
    expected = run.predict(test.images[:20], "agent").logits
    assert torch.equal(run.logits(images, keep), expected)
    with torch.no_grad():
        assert torch.allclose(run.model(images, keep), expected, atol=1e-5)


def test_the_file_of_weights_alone_is_enough_for_the_vit(of_pictures, tmp_path):
    out, test, _ = of_pictures
    alone = shutil.copy(out / "vit.safetensors", tmp_path / "mine.safetensors")
    run = load_run(alone)
    assert run.classes == ("cat", "dog")
    assert run.agent is None
    made = run.predict(test.images).logits
    assert torch.allclose(made, load_run(out).predict(test.images).logits, atol=1e-5)
    with pytest.raises(InputError, match=r"the folder of a run, .* got a file of weights"):
        run.predict(test.images, "agent")


@pytest.mark.parametrize("form", ["array", "tensor"])
def test_another_number_of_channels_is_one_line(of_pictures, form):
    run = load_run(of_pictures[0])
    image = np.zeros((16, 32), np.uint8)
    image = image if form == "array" else torch.from_numpy(image)[None]
    with pytest.raises(InputError, match="expected images of 3 channels, as the run's, got 1 chan"):
        run.predict(image)


def test_pictures_for_a_grey_run_become_grey(tmp_path):
    digits = ["--dataset", "digits", "--agent", "random"]
    out, test = trained(tmp_path, *digits, "--image-size", "32", "--train-fraction", "0.1")
    run = load_run(out)
    assert run.card.channels == 1
    grey = Image.fromarray(test.images[0][0].numpy())
    grey.convert("RGB").save(tmp_path / "grey.png")
    assert torch.equal(run.preprocess.pixels(tmp_path / "grey.png"), test.images[0])
    assert torch.equal(run.preprocess.pixels(grey), test.images[0])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"run must be the folder of a finished run, or a file .*: there is neither"),
        ("folder", r"run must be the folder of a finished run, .*there is no config.json in it"),
        ("text", r"expected weights with a card, as train writes them, in .*, got none"),
        ("picture", r"expected weights with a card, as train writes them, in .*, got none"),
    ],
)
def test_what_is_no_run_is_one_line(content, said, tmp_path):
    path = tmp_path / "it"
    if content == "folder":
        path.mkdir()
    elif content == "text":
        path.write_text("no weights")
    elif content == "picture":
        Image.new("RGB", (8, 8)).save(path, format="png")
    with pytest.raises(InputError, match=said) as error:
        load_run(path)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    main(["train", *TINY_OPTIONS, "--epochs", "1", "--agent", "random", "--out", str(out)])
    return out


def drawn():
    return torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002


def test_loading_leaves_the_callers_random_generators(short_run):
    set_random_seed(5)
    expected = drawn()
    set_random_seed(5)
    load_run(short_run)
    assert drawn() == expected


@pytest.mark.parametrize(
    ("weights", "file", "message"),
    [
        ("Best", "", "weights must be one of newest, best, got 'Best'"),
        ("best", "vit.safetensors", "weights must be newest for a file of weights, got best"),
    ],
)
def test_weights_are_never_others_than_those_asked_for(weights, file, message, short_run):
    with pytest.raises(ArgumentError, match=message):
        load_run(short_run / file, weights=weights)
