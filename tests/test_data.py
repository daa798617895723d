import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import datasets

from vit_patch_env.data.datasets import check_dataset, load_dataset
from vit_patch_env.data.torch_datasets import from_torch

N_DIGITS = 1797


def same_images(one, other):
    """Whether two sets of images are the same, in any order."""
    return sorted(one.flatten(1).tolist()) == sorted(other.flatten(1).tolist())


def labels_of(data):
    return torch.cat([split.labels for split in (data.train, data.val, data.test)])


def test_digits_are_grey_and_never_mirrored():
    data = load_dataset("digits")
    assert data.train.images.shape[1:] == (1, 32, 32)
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.max() == 255
    assert data.classes == tuple("0123456789")
    assert not data.flip


def test_splits_are_disjoint_stratified_and_complete():
    data = load_dataset("digits")
    assert len(labels_of(data)) == N_DIGITS
    assert len(data.test.labels) == 360
    assert len(data.val.labels) == 144
    share = torch.bincount(data.val.labels) / torch.bincount(labels_of(data))
    assert (share - 144 / N_DIGITS).abs().max() < 0.01
    images = torch.cat([data.train.images, data.val.images, data.test.images]).flatten(1)
    scans = load_dataset("digits", val_fraction=0.5)
    again = torch.cat([scans.train.images, scans.val.images, scans.test.images]).flatten(1)
    assert torch.equal(images.sort(dim=0).values, again.sort(dim=0).values)


def test_the_test_split_does_not_depend_on_the_training_share():
    full, part = load_dataset("digits"), load_dataset("digits", train_fraction=0.2)
    assert torch.equal(full.test.images, part.test.images)
    assert len(part.train.labels) + len(part.val.labels) == pytest.approx(0.2 * 1437, abs=1)


def test_split_seed_changes_the_validation_images():
    one, other = load_dataset("digits", seed=1), load_dataset("digits", seed=2)
    assert not torch.equal(one.val.images, other.val.images)


def test_statistics_are_those_of_the_training_images():
    data = load_dataset("synthetic")
    values = data.train.images.double().movedim(1, 0).flatten(1) / 255
    assert data.channel_mean == pytest.approx(values.mean(1).tolist(), abs=1e-4)
    assert data.channel_std == pytest.approx(values.std(1).tolist(), abs=1e-4)


def test_images_are_resized():
    assert load_dataset("digits", image_size=16).test.images.shape[1:] == (1, 16, 16)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_downloaded_data_sets_are_read_from_their_files(name, monkeypatch, tmp_path):
    """torchvision's reading is replaced, as its files need a network."""
    shape = (100, 28, 28) if name == "fashion_mnist" else (100, 32, 32, 3)
    asked = []

    def init(self, root, train, download):
        asked.append((root, download))
        self.data = np.full(shape, 1 if train else 2, dtype=np.uint8)
        if name == "fashion_mnist":
            self.data = torch.from_numpy(self.data)
        self.targets = [index % 10 for index in range(100)]
        self.classes = [str(index) for index in range(10)]

    kind = {
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "fashion_mnist": datasets.FashionMNIST,
    }[name]
    monkeypatch.setattr(kind, "__init__", init)
    data = load_dataset(name, data_dir=tmp_path)
    channels = 1 if name == "fashion_mnist" else 3
    assert data.train.images.shape == (90, channels, 32, 32)
    assert (data.val.images == 1).all()
    assert (data.test.images == 2).all()
    assert data.flip
    assert asked == [(tmp_path, True)] * 2


def test_a_cifar_folder_in_the_published_layout_is_read(tmp_path, monkeypatch):
    """The real reader on files made here: CIFAR-10's pickled batches, without checksums."""
    root = tmp_path / datasets.CIFAR10.base_folder
    root.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 3072), dtype=np.uint8)
    batch = {"data": pixels, "labels": [index % 10 for index in range(40)]}
    for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list:
        (root / name).write_bytes(pickle.dumps(batch))
    names = [f"class {index}" for index in range(10)]
    (root / datasets.CIFAR10.meta["filename"]).write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    data = load_dataset("cifar10", data_dir=tmp_path)
    assert same_images(data.test.images, torch.from_numpy(pixels).view(40, 3, 32, 32))
    assert data.classes == tuple(names)


def test_a_failed_download_says_where_the_files_were_expected(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "__init__", fail)
    with pytest.raises(ValueError, match=f"expected the files of CIFAR10 in {tmp_path}"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_every_split_is_shuffled_the_same_way_each_time(make_folder):
    """Batches of a single class would be unlike those that an agent was trained on."""
    root = make_folder(n_images=100)
    data, again = (load_dataset("folder", data_dir=root, image_size=12) for _ in range(2))
    for split in ("train", "val", "test"):
        labels = getattr(data, split).labels
        assert not torch.equal(labels, labels.sort().values)
        assert torch.equal(labels, getattr(again, split).labels)


def test_nearly_all_images_is_a_valid_share():
    assert len(load_dataset("digits", train_fraction=0.999).train.labels) > 1280


@pytest.mark.parametrize(
    ("images", "classes", "message"),
    [
        (torch.rand(20, 3, 8, 8) - 0.1, None, r"floating-point images in \[0, 1\]"),
        (torch.rand(20, 8), None, r"tensors .*\(channels, height, width\), got \(8,\)"),
        (np.zeros((20, 8, 8, 3)), None, "got ndarray"),
        ([torch.rand(3, 8, 8)] * 10 + [torch.rand(4, 8, 8)] * 10, None, r"or 3 \(RGB\), got .*4"),
        (torch.rand(0, 3, 8, 8), None, "got an empty one"),
        (torch.rand(20, 3, 8, 8), ("a",), "expected at least two classes, got a"),
    ],
)
def test_from_torch_refuses_what_would_train_on_garbage(images, classes, message):
    with pytest.raises(ValueError, match=message):
        from_torch(Pairs(images), classes=classes, image_size=8)


def test_from_torch_refuses_labels_without_a_class():
    class Third(Pairs):
        def __getitem__(self, index):
            return self.images[index], index % 3

    with pytest.raises(ValueError, match="highest label must be in"):
        from_torch(Third(torch.rand(30, 3, 8, 8)), classes=("a", "b"), image_size=8)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "imagenet"}, "dataset must be one of digits, .*, got 'imagenet'"),
        ({"name": "folder"}, "dataset 'folder' needs data_dir"),
        ({"name": "digits", "train_fraction": 0.0}, r"train_fraction must be in \(0, 1\], got 0"),
        ({"name": "digits", "val_fraction": 1.0}, r"val_fraction must be in \(0, 1\), got 1"),
        ({"name": "digits", "resize": "fill"}, "resize must be one of crop, .*, got 'fill'"),
        (
            {"name": "digits", "train_fraction": 0.004},
            "train_fraction must leave at least one image of each of 10 classes",
        ),
    ],
)
def test_bad_input_states_what_was_expected_and_what_was_given(kwargs, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(**kwargs)


def test_check_dataset_reads_no_images(make_folder):
    root = make_folder()
    (root / "train" / "cat" / "000.png").write_bytes(b"broken")
    check_dataset("folder", root)


class Pairs(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index % 2


@pytest.mark.parametrize("kind", ["pil", "uint8", "float"])
def test_from_torch_takes_a_users_own_data_set(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    images = {
        "pil": [Image.fromarray(image) for image in pixels],
        "uint8": tensor,
        "float": tensor / 255,
    }[kind]
    data = from_torch(Pairs(images), Pairs(images), image_size=8, flip=False)
    assert same_images(data.test.images, tensor)
    assert data.classes == ("0", "1")
    assert not data.flip


def test_from_torch_holds_out_a_test_split():
    data = from_torch(Pairs(torch.rand(50, 3, 8, 8)), image_size=8)
    assert [len(split.labels) for split in (data.train, data.val, data.test)] == [36, 4, 10]


def test_a_fraction_that_leaves_out_too_few_images_to_choose_from_each_class_is_said():
    whole, data = (load_dataset("digits", train_fraction=fraction) for fraction in (1.0, 0.997))
    assert data.notes == (
        "a share of 0.997 of 1,437 training images leaves out fewer than one of each of 10 "
        "classes: all are used",
    )
    assert whole.notes == ()
    assert len(labels_of(data)) == N_DIGITS
