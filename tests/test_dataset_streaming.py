"""Torch data sets that are read item by item in every batch."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv, from_torch
from vit_patch_env.data.batches import BatchStream, Normalize
from vit_patch_env.data.dataset_source import DatasetImages
from vit_patch_env.data.resize import Form
from vit_patch_env.data.splits import split_source
from vit_patch_env.data.torch_datasets import make_source

CPU = torch.device("cpu")


class Noisy(Dataset):
    """Images of their index, with noise of three global generators that differs in each reading."""

    def __init__(self, n=60, n_classes=3, broken=None, colour=()):
        self.n, self.n_classes, self.broken, self.colour = n, n_classes, broken, colour
        self.reads = 0

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index >= self.n:
            raise IndexError
        if index == self.broken:
            raise OSError("damaged")
        self.reads += 1
        image = torch.full((3 if index in self.colour else 1, 8, 8), index, dtype=torch.uint8)
        image[:, 0, 0] = torch.randint(0, 256, ())
        image[:, 0, 1] = random.randrange(256)
        image[:, 0, 2] = int(np.random.randint(0, 256))  # noqa: NPY002
        return image, index % self.n_classes


def batches(data, n, position=(0, 0)):
    stream = BatchStream(
        *data.train, Normalize((0.0,), (1.0,), CPU), batch_size=10, seed=5, crop_padding=0,
        flip=False,
    )  # fmt: skip
    stream.position = position
    return [stream.next().images.mul(255).round() for _ in range(n)]


def test_a_data_sets_own_augmentation_differs_between_epochs_and_is_seeded():
    data = from_torch(Noisy(), image_size=8, images="stream")
    assert isinstance(data.train.images, DatasetImages)
    n = len(data.train.labels) // 10
    first = batches(data, 2 * n)
    torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    again = batches(from_torch(Noisy(), image_size=8, images="stream"), 2 * n)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    noise = [
        {int(image[0, 7, 7]): image[0, 0, :3].tolist() for batch in part for image in batch}
        for part in (first[:n], first[n:])
    ]
    shown_twice = noise[0].keys() & noise[1].keys()
    assert len(shown_twice) > 20
    differing = [
        [noise[0][index][place] != noise[1][index][place] for index in shown_twice]
        for place in range(3)
    ]
    assert all(sum(part) > 0.9 * len(shown_twice) for part in differing)
    resumed = batches(data, 2, (1, 1))
    assert torch.equal(resumed[0], first[n + 1])
    assert torch.equal(resumed[1], first[n + 2])


def test_reading_leaves_the_global_generators_alone():
    data = from_torch(Noisy(), image_size=8, images="stream")
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    batches(data, 3)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


@pytest.mark.long
@pytest.mark.parametrize("images", ["memory", "stream"])
def test_a_run_with_random_items_is_the_same_again(images):
    rewards = []
    for _ in range(2):
        data = from_torch(Noisy(n=200), image_size=32, images=images)
        env = ViTPatchSelectEnv(**TINY | {"dataset": data, "batch_size": 16})
        env.reset(seed=3)
        rewards.append([env.step(np.arange(16) % 2)[1] for _ in range(6)])
        rewards.append(env.evaluate("test"))
    assert rewards[:2] == rewards[2:]


@pytest.mark.parametrize("images", ["memory", "stream"])
@pytest.mark.parametrize("colour", [{0}, {59}, {17, 40}])
def test_grey_images_become_rgb_if_any_is_in_colour(images, colour):
    data = from_torch(Noisy(colour=colour), image_size=8, images=images)
    for split in (data.train, data.val, data.test):
        assert split.images[:].shape[1:] == (3, 8, 8)
    assert len(data.channel_mean) == 3


@pytest.mark.parametrize("images", ["memory", "stream"])
def test_an_item_that_cannot_be_read_is_named_before_training(images):
    for broken in (7, 31, 58):
        with pytest.raises(ValueError, match=f"readable item {broken} of the training set"):
            from_torch(Noisy(broken=broken), image_size=8, images=images)


def test_statistics_are_those_of_what_is_read():
    data = from_torch(Noisy(colour={3}), image_size=8, images="stream")
    values = data.train.images[:].double()
    assert data.channel_mean[0] == pytest.approx(values[:, 0].mean().item() / 255, abs=0.02)
    assert data.channel_std[2] == pytest.approx(values[:, 2].std().item() / 255, abs=0.02)


class Named(Dataset):
    """Images of their class; classes are in an order of their own."""

    def __init__(self, classes, n=24):
        self.classes, self.n = classes, n
        self.targets = [index % len(classes) for index in range(n)]

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        label = self.targets[index]
        value = 20 * (ord(self.classes[label]) - ord("a"))
        return torch.full((1, 8, 8), value, dtype=torch.uint8), label


def test_each_sets_labels_have_that_sets_names():
    source = make_source(
        Named(["a", "b", "c", "d"]), Named(["d", "c", "b", "a"]), Named(["b", "a", "d", "c"]),
        None, Form(8, "crop"), images="memory", flip=True,
    )  # fmt: skip
    data = split_source(source, train_fraction=1.0, val_fraction=0.2, seed=0)
    assert data.classes == ("a", "b", "c", "d")
    assert len(data.train.labels) == len(data.val.labels) == len(data.test.labels) == 24
    for split in (data.train, data.val, data.test):
        assert torch.equal(split.images[:, 0, 0, 0].long(), 20 * split.labels)


def test_classes_without_images_are_named_and_kept():
    class Two(Named):
        def __init__(self):
            super().__init__(["a", "b", "c", "d"])
            self.targets = [index % 2 for index in range(self.n)]

    data = from_torch(Two(), image_size=8)
    assert data.classes == ("a", "b", "c", "d")
    assert "the data set has no training images of c, d" in data.notes
