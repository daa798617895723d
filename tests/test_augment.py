"""Augmentation by name, a user's own, erasing and mixing; given normalisation."""

import json
import random
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.conftest import TINY, TINY_OPTIONS
from tests.interrupted_runs import advance_generators, learn
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.config import EnvConfig
from vit_patch_env.data.augment import AUGMENTATIONS, Mixing, erase, make_augmentation
from vit_patch_env.data.batches import Batch, BatchStream, Normalize, Position
from vit_patch_env.data.splits import ImageData, Split
from vit_patch_env.experiments.agents_by_name.factory import make_agent
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.options.flat import command
from vit_patch_env.experiments.options.saved import train_options
from vit_patch_env.experiments.runs.train import make_env
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.training.loss import CrossEntropy
from vit_patch_env.training.precision import Precision
from vit_patch_env.training.trainer import Trainer

CPU = torch.device("cpu")
MIXINGS = {
    "random_erasing": Mixing(random_erasing=0.5),
    "mixup": Mixing(mixup=0.4, n_classes=5),
    "cutmix": Mixing(cutmix=1.0, n_classes=5),
    "all": Mixing(0.5, 0.4, 1.0, n_classes=5),
}


def noisy_images(n_images=24, channels=3, size=16):
    generator = torch.Generator().manual_seed(0)
    shape = (n_images, channels, size, size)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def one_image(n_images=24, channels=3):
    """The same image many times, a ramp of greys that every operation but identity changes."""
    ramp = torch.arange(16).view(1, 1, 1, 16) * 10 + torch.arange(16).view(1, 1, 16, 1)
    tint = torch.arange(channels).view(1, -1, 1, 1) * 20
    return (ramp + tint + 20).to(torch.uint8).repeat(n_images, 1, 1, 1)


def make_stream(images=None, augment="crop-flip", mixing=None, labels=None, **kwargs):
    """Batches of all images in [0, 255], unless `normalize` is given."""
    images = noisy_images() if images is None else images
    channels = images.shape[1]
    kwargs = {
        "normalize": Normalize((0.0,) * channels, (1 / 255,) * channels, CPU),
        "batch_size": len(images),
        "seed": 0,
        **kwargs,
    }
    labels = torch.arange(len(images)) % 5 if labels is None else labels
    return BatchStream(
        images, labels, augmentation=make_augmentation(augment), mixing=mixing, **kwargs
    )


def equal(one, other):
    return all(torch.equal(mine, yours) for mine, yours in zip(one, other, strict=True))


def blur(images):
    """A user's transform that draws from every global generator."""
    noise = torch.randint(50, images.shape, dtype=torch.uint8)
    number = random.randrange(50) + np.random.randint(50)  # noqa: NPY002
    return images // 2 + noise + number


RANDOM = [
    *((name, None) for name in AUGMENTATIONS),
    *(("crop-flip", mixing) for mixing in MIXINGS.values()),
    ("randaugment", MIXINGS["all"]),
    (blur, MIXINGS["all"]),
]


# Randomness.


@pytest.mark.parametrize(("augment", "mixing"), RANDOM)
def test_batches_depend_on_seed_epoch_and_batch_alone(augment, mixing):
    def made(seed=0):
        return make_stream(augment=augment, mixing=mixing, batch_size=8, seed=seed)

    stream = made()
    expected = [stream.next() for _ in range(7)]
    again = made()
    for batch in expected:
        advance_generators()
        assert equal(again.next(), batch)
    for start in (1, 3, 5):
        resumed = made(seed=1)
        resumed.load_state_dict({"seed": 0, "position": [start // 3, start % 3]})
        assert all(equal(resumed.next(), batch) for batch in expected[start:])
    assert not equal(made(seed=1).next(), expected[0])


@pytest.mark.parametrize(("augment", "mixing"), RANDOM)
def test_the_global_generators_are_left_as_they_were(augment, mixing):
    stream = make_stream(augment=augment, mixing=mixing)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    stream.next()
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1][1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_the_global_generators_are_restored_after_an_error():
    def fails(images):
        torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
        raise KeyError("mine")

    states = random.getstate(), torch.get_rng_state()
    with pytest.raises(KeyError, match="mine"):
        make_stream(augment=fails).next()
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


@pytest.mark.parametrize("augment", ["randaugment", "trivialaugment", "random-resized-crop"])
def test_epochs_and_batches_have_other_randomness(augment):
    stream = make_stream(one_image(), augment, batch_size=12, crop_padding=0, flip=False)
    first, second, other_epoch = (stream.next().images for _ in range(3))
    assert not torch.equal(first, second)
    assert not torch.equal(first, other_epoch)


# Operations by name.


def test_crop_flip_is_the_default():
    images = noisy_images()
    default = BatchStream(
        images, torch.arange(24) % 5, Normalize((0.0,) * 3, (1 / 255,) * 3, CPU),
        batch_size=24, seed=0,
    )  # fmt: skip
    assert equal(default.next(), make_stream(images).next())


def test_none_leaves_images_as_they_are():
    images = noisy_images()
    stream = make_stream(images, "none", labels=torch.arange(24), crop_padding=4, flip=True)
    for _ in range(2):
        batch = stream.next()
        assert torch.equal(batch.images, images[batch.labels].float())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("augment", "least"), [("randaugment", 10), ("trivialaugment", 6)])
def test_operations_differ_within_a_batch(augment, least, channels):
    images = one_image(channels=channels)
    batch = make_stream(images, augment, crop_padding=0, flip=False).next().images
    assert len(batch.flatten(1).unique(dim=0)) >= least
    assert batch.min() >= 0
    assert batch.max() <= 255
    assert not torch.equal(batch, images.float())


def test_operations_differ_within_a_batch_that_is_larger_than_the_number_of_groups():
    batch = make_stream(one_image(80), "randaugment", crop_padding=0, flip=False).next().images
    assert len(batch.flatten(1).unique(dim=0)) >= 30


@pytest.mark.parametrize("augment", ["randaugment", "trivialaugment"])
def test_images_and_labels_stay_together_where_operations_are_sampled(augment):
    # Each image is bright in a row of its own, and identity is among the operations.
    images = torch.zeros(16, 1, 16, 16, dtype=torch.uint8)
    images[torch.arange(16), 0, torch.arange(16)] = 200
    stream = make_stream(
        images, augment, labels=torch.arange(16), crop_padding=0, flip=False, batch_size=16
    )
    same = sum(
        int((batch.images == images[batch.labels]).flatten(1).all(1).sum())
        for batch in (stream.next() for _ in range(8))
    )
    assert same >= 10  # of 128; mixed up, one in 16 of those unchanged would be in its place


@pytest.mark.parametrize("augment", ["randaugment", "trivialaugment"])
def test_operations_come_after_crop_and_flip(augment, monkeypatch):
    seen = []
    plain = make_augmentation(augment)
    monkeypatch.setitem(
        AUGMENTATIONS, augment, lambda: plain._replace(transform=lambda x: seen.append(x) or x)
    )
    expected = make_stream().next()
    assert equal(make_stream(augment=augment).next(), expected)
    assert torch.equal(seen[0].float(), expected.images)


def test_random_resized_crops_are_enlarged_parts():
    # The values are those of the columns: a crop holds a range of them, in their order.
    images = (torch.arange(32) * 8).to(torch.uint8).expand(20, 1, 32, 32).contiguous()
    batch = make_stream(images, "random-resized-crop", flip=False, crop_padding=16).next().images
    ranges = batch[:, 0, 0, -1] - batch[:, 0, 0, 0]
    assert (batch.diff(dim=-1) >= 0).all()
    assert ((ranges > 0) & (ranges <= 31 * 8)).all()
    assert ranges.min() < 0.6 * 31 * 8 < 0.9 * 31 * 8 < ranges.max() + 31
    assert len(ranges.unique()) > 5
    assert batch[:, 0, 0, 0].unique().numel() > 5  # at several places
    assert (batch.diff(dim=-2) == 0).all()  # without padding, which is black


def test_half_of_the_random_resized_crops_are_mirrored():
    images = (torch.arange(32) * 8).to(torch.uint8).expand(60, 1, 32, 32).contiguous()
    batch = make_stream(images, "random-resized-crop").next().images
    assert 15 < (batch[:, 0, 0, 0] > batch[:, 0, 0, -1]).sum() < 45


# A user's own transform.


def test_an_own_transform_gets_uint8_batches_without_crops_and_mirrored_images():
    seen = []

    def own(images):
        seen.append(images.clone())
        return 255 - images

    images = noisy_images()
    batch = make_stream(images, own, labels=torch.arange(24)).next()
    assert torch.equal(seen[0], images[batch.labels])
    assert torch.equal(batch.images, 255.0 - images[batch.labels])


def test_an_own_transform_may_write_to_its_images():
    images = noisy_images()
    make_stream(images, lambda batch: batch.zero_()).next()
    assert torch.equal(images, noisy_images())


@pytest.mark.parametrize(
    ("own", "got"),
    [
        (lambda images: images.float(), r"float32 \(24, 3, 16, 16\)"),
        (lambda images: images[:, :1], r"uint8 \(24, 1, 16, 16\)"),
        (lambda images: images[0], r"uint8 \(3, 16, 16\)"),
        (lambda images: images.numpy(), r"array\("),
        (lambda images: None, "None"),
    ],
)
def test_results_of_an_own_transform_are_checked(own, got):
    expected = r"augment must return a tensor of uint8 \(24, 3, 16, 16\), got "
    with pytest.raises(ValueError, match=expected + got) as error:
        make_stream(augment=own).next()
    assert "\n" not in str(error.value)


# Erasing.


def test_a_rectangle_of_each_image_is_erased():
    images = torch.ones(300, 3, 20, 24)
    erased = erase(images.clone(), 1.0) == 0
    assert (erased == erased[:, :1]).all()  # in all channels
    for mask in erased[:, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns)
        assert rows.diff().sum() <= 2  # contiguous
        assert columns.diff().sum() <= 2
    shares = erased[:, 0].float().mean((1, 2))
    assert 0.01 < shares.min() < 0.06
    assert 0.25 < shares.max() < 0.36
    assert len(shares.unique()) > 50


def test_erasing_has_its_probability():
    erased = (erase(torch.ones(1000, 1, 8, 8), 0.25) == 0).flatten(1).any(1)
    assert 200 < erased.sum() < 300


def test_erased_pixels_are_the_mean_of_normalised_images():
    normalize = Normalize((0.5,) * 3, (0.2,) * 3, CPU)
    stream = make_stream(mixing=Mixing(random_erasing=1.0), normalize=normalize)
    images = stream.next().images
    erased = (images == 0).all(1)
    assert erased.flatten(1).any(1).all()
    pixels = normalize.inverse(images).movedim(1, -1)[erased]
    assert ((pixels == 127) | (pixels == 128)).all()


def test_an_image_of_a_pixel_has_nothing_to_erase():
    assert (erase(torch.ones(4, 1, 1, 1), 1.0) == 1).all()


# Mixing.


def plain_batch():
    """The batch that `make_stream` starts with, before it is mixed."""
    return make_stream().next()


def share_of_own(mixed, plain):
    """The share of its own labels in every label of a mixture, and the shares of the previous."""
    own = F.one_hot(plain.labels, 5).float()
    other = own.roll(1, 0)
    differ = (own != other).any(1)
    shares = (mixed * own).sum(1)[differ]
    assert torch.allclose(shares, shares[:1])
    return float(shares[0]), own, other


def test_mixup_blends_images_and_labels_alike():
    plain = plain_batch()
    mixed = make_stream(mixing=Mixing(mixup=1.0, n_classes=5)).next()
    assert mixed.labels.shape == (24, 5)
    assert mixed.labels.dtype == torch.float32
    share, own, other = share_of_own(mixed.labels, plain)
    assert 0 < share < 1
    assert torch.allclose(mixed.labels, share * own + (1 - share) * other)
    blend = share * plain.images + (1 - share) * plain.images.roll(1, 0)
    assert torch.allclose(mixed.images, blend, atol=1e-3)


def test_cutmix_pastes_a_rectangle_of_the_share_in_the_labels():
    plain = plain_batch()
    stream = make_stream(mixing=Mixing(cutmix=1.0, n_classes=5), seed=0)
    mixed = stream.next()
    share, own, other = share_of_own(mixed.labels, plain)
    assert torch.allclose(mixed.labels, share * own + (1 - share) * other)
    pasted = (mixed.images != plain.images).any(1).any(0)
    rows, columns = pasted.any(1), pasted.any(0)
    assert torch.equal(pasted, rows[:, None] & columns)
    assert pasted.float().mean().item() == pytest.approx(1 - share)
    assert 0 < share < 1
    expected = torch.where(pasted, plain.images.roll(1, 0), plain.images)
    assert torch.equal(mixed.images, expected)


def test_with_mixup_and_cutmix_each_batch_gets_one_of_the_two():
    stream = make_stream(mixing=Mixing(mixup=1.0, cutmix=1.0, n_classes=5), augment="none")
    n_pasted = 0
    values = set(noisy_images().unique().tolist())
    for _ in range(30):
        images = stream.next().images
        n_pasted += set(images.unique().tolist()) <= values  # blends are no integers
    assert 5 < n_pasted < 25


def test_labels_stay_classes_without_mixing():
    labels = make_stream(mixing=Mixing(random_erasing=0.5, n_classes=5)).next().labels
    assert labels.shape == (24,)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_labels_is_the_mixture_of_losses(smoothing):
    torch.manual_seed(0)
    model = SimpleViT(
        n_classes=5, image_size=16, patch_size=8, dim=16, depth=1, heads=2, dim_head=8, mlp_dim=16
    )
    images, classes = torch.rand(6, 3, 16, 16), torch.arange(6) % 5
    other = classes.roll(1)
    labels = 0.7 * F.one_hot(classes, 5) + 0.3 * F.one_hot(other, 5)
    with torch.no_grad():
        logs = model(images).log_softmax(1)
    one_hot, one_hot_other = F.one_hot(classes, 5).float(), F.one_hot(other, 5).float()
    target = (1 - smoothing) * (0.7 * one_hot + 0.3 * one_hot_other) + smoothing / 5
    expected = -(target * logs).sum(1).mean()
    trainer = Trainer(model, Precision(CPU, torch.float32), loss=CrossEntropy(smoothing))
    loss = trainer.step(Batch(images, labels.float()))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


# Images that are read from elsewhere than the device.


class Shelf:
    """Array-like images, with what was asked for."""

    def __init__(self, images):
        self._images = images
        self.shape = images.shape
        self.read = []
        self.prefetched = []

    def __len__(self):
        return len(self._images)

    def __getitem__(self, indices):
        assert indices.device == CPU
        assert indices.dtype == torch.int64
        self.read.append(indices.tolist())
        return self._images[indices]

    def prefetch(self, indices):
        self.prefetched.append(indices.tolist())


def test_array_likes_give_the_same_batches_and_are_told_of_the_next():
    shelf = Shelf(noisy_images())
    stream, expected = make_stream(shelf, batch_size=8), make_stream(batch_size=8)
    for _ in range(8):
        assert equal(stream.next(), expected.next())
    assert shelf.read[1:] == shelf.prefetched[:-1]
    stream.position = Position(1, 0)
    assert equal(stream.next(), make_again(Position(1, 0)))


def make_again(position):
    stream = make_stream(batch_size=8)
    stream.position = position
    return stream.next()


# The environment and the command line.


RUNS = {
    **{name: {"augment": name} for name in AUGMENTATIONS},
    "random_erasing": {"random_erasing": 0.5},
    "mixup and cutmix": {"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1},
    "own": {"augment": blur},
}


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_identically(name, tmp_path):
    def new_agent():
        config = EnvConfig(**TINY | RUNS[name])  # 14 steps
        options = TrainOptions(agent="random", seed=3, env=config)
        return make_agent(options, make_env(config))

    expected, *_ = learn(new_agent(), tmp_path / "uninterrupted", n_steps=14)
    learn(new_agent(), tmp_path / "run", stop_at=9, n_steps=14)
    assert learn(new_agent(), tmp_path / "run", resume=True, n_steps=14)[0] == expected


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", [name for name in RUNS if name != "crop-flip"])
def test_arguments_change_the_run_but_not_its_evaluation(name):
    losses, metrics = [], []
    for kwargs in ({}, RUNS[name]):
        env = ViTPatchSelectEnv(**TINY | kwargs | {"label_smoothing": 0.0})
        env.reset(seed=0)
        metrics.append(env.evaluate("val"))  # of the same initial weights
        losses.append(env.step(np.ones(16, dtype=np.int8))[-1]["loss"])
    assert losses[0] != losses[1]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(("name", "pastes"), [("mixup", False), ("cutmix", True)])
def test_batches_of_a_run_are_mixed_as_asked(name, pastes):
    batches = []
    for kwargs in ({}, {name: 1.0}):
        env = ViTPatchSelectEnv(**TINY, augment="none", **kwargs)
        env.reset(seed=0)
        batches.append(env.episode.run.batch)
    plain, mixed = batches
    pasted = (mixed.images == plain.images) | (mixed.images == plain.images.roll(1, 0))
    assert bool(pasted.all()) == pastes
    assert mixed.labels.shape == (64, 4)


def test_another_augmentation_is_refused_on_resume(tmp_path):
    env = ViTPatchSelectEnv(**TINY, augment="randaugment", mean=(0.5,) * 3)
    env.reset(seed=0)
    env.save(tmp_path / "run")
    for kwargs, message in (
        ({"augment": "none", "mean": (0.5,) * 3}, "augment must be that of the saved run, randaug"),
        ({"augment": "randaugment"}, r"mean must be that of the saved run, \(0.5, 0.5, 0.5\), got"),
        (
            {"augment": "randaugment", "mean": (0.5, 0.5, 0.4)},
            r"mean must be that of the saved run, \(0.5, 0.5, 0.5\), got \(0.5, 0.5, 0.4\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            ViTPatchSelectEnv(**TINY | kwargs).load(tmp_path / "run")
    ViTPatchSelectEnv(**TINY, augment="randaugment", mean=[0.5] * 3).load(tmp_path / "run")


def test_given_mean_and_deviation_are_used():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    plain = ViTPatchSelectEnv(**TINY, augment="none")
    env = ViTPatchSelectEnv(**TINY, augment="none", mean=mean, std=std)
    for one in (plain, env):
        one.reset(seed=0)
    run = env.episode.run
    pixels = plain.episode.run.stream.normalize.inverse(plain.episode.run.batch.images) / 255
    expected = (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    assert torch.allclose(run.batch.images, expected, atol=1e-5)
    assert env.evaluate("val") != plain.evaluate("val")  # by the same initial weights
    used = env.image_statistics()
    assert (used["normalize_mean"], used["normalize_std"]) == (list(mean), list(std))
    used = plain.image_statistics()
    assert used["normalize_mean"] == pytest.approx(plain.data.channel_mean, abs=1e-6)
    assert used["normalize_std"] == pytest.approx(plain.data.channel_std, abs=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"augment": "cutout"}, "augment must be one of crop-flip, none, .*, got 'cutout'"),
        ({"augment": 3}, "augment must be a name or a function, got 3"),
        ({"random_erasing": 1.5}, r"random_erasing must be in \[0, 1\], got 1.5"),
        ({"mixup": -1.0}, r"mixup must be in \[0, inf\), got -1"),
        ({"cutmix": 1e-6}, "cutmix must be 0 or at least 0.01, got 1e-06"),
        ({"mean": (0.5, 0.5, 1.5)}, r"mean must be .*each a number in \[0, 1\], .*got 1.5"),
        ({"std": (0.2, 0.0, 0.2)}, r"std must be .*each a number in \(0, inf\), .*got 0"),
        ({"mean": 0.5}, "mean must be a list, each a number .* or None, got 0.5"),
        ({"mean": (0.5,)}, r"mean must be 3 numbers, one per channel, got 1: \(0.5,\)"),
        ({"std": ()}, r"std must be 3 numbers, one per channel, got 0: \(\)"),
    ],
)
def test_bad_arguments_are_refused_before_training(kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        ViTPatchSelectEnv(**TINY | kwargs).data  # noqa: B018
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("channels", "accepted"), [(1, True), (2, False), (3, True), (4, False)])
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_colour_operations_need_grey_or_colour_images(augment, channels, accepted):
    split = Split(noisy_images(20, channels, 32), torch.arange(20) % 2)
    data = ImageData(split, split, split, ("a", "b"), flip=True)
    env = ViTPatchSelectEnv(**TINY | {"dataset": data, "augment": augment, "batch_size": 10})
    if accepted or augment not in ("randaugment", "trivialaugment"):
        env.reset(seed=0)
        return
    with pytest.raises(
        ValueError, match=f"augment {augment} needs images of 1 or 3 channels, got {channels}"
    ):
        env.reset(seed=0)


def test_arguments_survive_gymnasiums_json():
    env = gym.make("ViTPatchSelect-v0", **TINY, augment="randaugment", mean=(0.5, 0.4, 0.3))
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    again = gym.make(spec).unwrapped
    assert again.config == env.unwrapped.config
    assert again.config.mean == (0.5, 0.4, 0.3)


def test_options_are_read_written_and_saved():
    words = ["--augment", "trivialaugment", "--random-erasing", "0.25", "--mixup", "0.2"]
    words += ["--mean", "0.5", "0.4", "0.3", "--std", "0.2", "0.2", "0.2"]
    options = parse(["train", *words])
    env = options.env
    assert (env.augment, env.random_erasing, env.mixup) == ("trivialaugment", 0.25, 0.2)
    assert (env.mean, env.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert command("train", options, parse(["train"])) == " ".join(["vit-patch", "train", *words])
    saved = json.loads(json.dumps({"env": {"mean": [0.5, 0.4, 0.3], "augment": "none"}}))
    assert train_options(saved).env == replace(EnvConfig(), mean=(0.5, 0.4, 0.3), augment="none")


@pytest.mark.parametrize("words", [[], ["--mean", "None"]])
def test_without_mean_it_is_that_of_the_data(words):
    assert parse(["train", *words]).env.mean is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--augment", "cutout"], "--augment must be one of crop-flip, none, randaugment"),
        (["--mean", "0.5", "0.5"], "--mean must be 3 numbers, one per channel, got 2: (0.5, 0.5)"),
        (["--mean", "a"], "--mean must be a list, each a number in [0, 1], or None, got 'a'"),
        (["--mean"], "--mean must be 3 numbers, one per channel, got 0: ()"),
        (["--std", "0"], "--std must be a list, each a number in (0, inf), or None, got 0"),
    ],
)
def test_bad_options_are_refused_in_one_line(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", *TINY_OPTIONS, "--out", str(tmp_path / "run"), *words])
    shown = capsys.readouterr().err.strip()
    assert message in shown
    assert len(shown.splitlines()) == 1


def test_a_run_folder_holds_the_normalisation(tmp_path, capsys):
    run = tmp_path / "run"
    main([
        "train", *TINY_OPTIONS, "--epochs", "1", "--agent", "random", "--out", str(run),
        "--augment", "randaugment", "--mixup", "0.2", "--mean", "0.5", "0.4", "0.3",
    ])  # fmt: skip
    result = json.loads((run / "result.json").read_text())
    assert result["normalize_mean"] == [0.5, 0.4, 0.3]
    assert len(result["normalize_std"]) == 3
    trained = capsys.readouterr().out
    main(["evaluate", str(run)])
    rows = [line for line in capsys.readouterr().out.splitlines() if "patches  " in line]
    assert len(rows) == 2
    assert all(row in trained for row in rows)
