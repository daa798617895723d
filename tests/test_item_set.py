"""Items that are read once: by whom, which are left out, and how they are held."""

import copy
import gc
import multiprocessing
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset
from torchvision.datasets import ImageFolder

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv, from_torch
from vit_patch_env.data import item_set
from vit_patch_env.data.augment import Augmentation
from vit_patch_env.data.batches import BatchStream, Normalize
from vit_patch_env.data.dataset_source import DatasetImages
from vit_patch_env.data.images import in_batches
from vit_patch_env.data.picture_source import StoredImages

CPU = torch.device("cpu")


class Noisy(Dataset):
    """Images of their index, with noise that differs in each reading, and some bad items."""

    def __init__(self, n=60, bad=None, known=False, n_classes=3):
        self.n = n
        self.bad = bad or {}
        labels = [index % n_classes for index in range(n)]
        self.classes_of = labels
        if known:
            self.targets = labels

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index >= self.n:
            raise IndexError
        value = self.bad.get(index)
        if isinstance(value, Exception):
            raise value
        if value is not None:
            return value
        image = torch.full((1 if index % 2 else 3, 8, 8), index, dtype=torch.uint8)
        image[:, 0, 0] = torch.randint(0, 256, ())
        image[:, 0, 1] = random.randrange(256)
        return image, self.classes_of[index]


def parts(data):
    return (data.train, data.val, data.test)


def numbers(split):
    """The items in a split, by the pixel that is their index."""
    return split.images[:][:, 0, 7, 7].tolist()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("images", ["memory", "stream"])
def test_images_are_the_same_with_any_number_of_workers(images, known, monkeypatch):
    monkeypatch.setattr(item_set, "_AT_ONCE", 7)
    state = torch.get_rng_state()
    data = [
        from_torch(Noisy(known=known), image_size=8, images=images, num_workers=num_workers)
        for num_workers in (0, 2)
    ]
    assert torch.equal(state, torch.get_rng_state())
    for one, other in zip(*map(parts, data), strict=True):
        assert torch.equal(one.labels, other.labels)
        for batch, again in zip(
            in_batches(one.images, 9), in_batches(other.images, 9), strict=True
        ):
            assert torch.equal(batch, again)
    assert data[0].channel_mean == data[1].channel_mean
    streams = [
        BatchStream(*of.train, Normalize((0.0,) * 3, (1.0,) * 3, CPU), batch_size=9, seed=1)
        for of in data
    ]
    n = streams[0].batches_per_epoch
    batches = [[stream.next().images for _ in range(2 * n + 1)] for stream in streams]
    assert all(map(torch.equal, *batches))
    streams[1].position = (1, n - 1)
    resumed = [streams[1].next().images for _ in range(2)]
    assert all(map(torch.equal, resumed, batches[0][2 * n - 1 :]))


def test_an_episode_is_the_same_with_workers():
    results = []
    for num_workers in (0, 1):
        data = from_torch(Noisy(n=100), image_size=32, images="stream", num_workers=num_workers)
        env = ViTPatchSelectEnv(**TINY | {"dataset": data, "batch_size": 16})
        env.reset(seed=3)
        results.append([env.step(np.arange(16) % 2)[1] for _ in range(3)])
        results.append(env.evaluate("val"))
        env.close()
    assert results[:2] == results[2:]


def test_a_process_that_may_start_no_others_reads_by_itself(monkeypatch):
    data = from_torch(Noisy(), image_size=8, images="stream", num_workers=2)
    expected = list(in_batches(data.train.images, 5))
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert all(map(torch.equal, in_batches(data.train.images, 5), expected))


def n_children():
    return len(multiprocessing.active_children())


def test_workers_end_with_the_stream_and_with_each_new_position():
    data = from_torch(Noisy(), image_size=8, images="stream", num_workers=2)
    before = n_children()
    stream = BatchStream(*data.train, Normalize((0.0,) * 3, (1.0,) * 3, CPU), batch_size=9, seed=1)
    gc.disable()  # not by chance, when garbage is collected
    try:
        for epoch in range(3):
            stream.position = (epoch, 0)
            stream.next()
            assert n_children() == before + 2
        del stream
        assert n_children() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_after_an_error_have_their_own_labels(num_workers):
    def failing(images):
        if fail:
            raise RuntimeError("once")
        return images

    fail = False
    data = from_torch(Noisy(), image_size=8, images="stream", num_workers=num_workers)
    stream = BatchStream(
        *data.train, Normalize((0.0,) * 3, (1 / 255,) * 3, CPU), batch_size=9, seed=1,
        augmentation=Augmentation(crop=False, flip=False, transform=failing),
    )  # fmt: skip
    for step in range(8):
        fail = step == 3
        if fail:
            with pytest.raises(RuntimeError, match="once"):
                stream.next()
            continue
        images, labels = stream.next()
        assert (images[:, 0, 7, 7].round().long() % 3).tolist() == labels.tolist()


def test_a_streamed_environment_can_be_copied():
    data = from_torch(Noisy(n=100), image_size=32, images="stream")
    env = ViTPatchSelectEnv(**TINY | {"dataset": data, "batch_size": 16})
    env.reset(seed=3)
    env.step(np.ones(16))
    again = pickle.loads(pickle.dumps(copy.deepcopy(env)))
    first, second = (one.step(np.arange(16) % 2)[1] for one in (env, again))
    assert first == second


@pytest.mark.parametrize("num_workers", [-1, 1.5, True])
def test_the_number_of_workers_is_checked(num_workers):
    with pytest.raises(ValueError, match="num_workers must be "):
        from_torch(Noisy(), image_size=8, num_workers=num_workers)


BAD = {
    5: OSError("damaged"),
    17: (torch.zeros(4, 8, 8, dtype=torch.uint8), 2),
    31: (torch.zeros(1, 8, 8), -1),
    32: "no pair",
    40: (Image.new("I", (8, 8)), 1),
}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("images", ["memory", "stream"])
def test_bad_items_are_left_out_and_named(images, known, num_workers):
    # What a data set says of its labels is compared with some items, of which these are none.
    bad = {key: value for key, value in BAD.items() if not known or key < 58}
    with pytest.warns(UserWarning, match="5 of 60 images cannot be read and are skipped") as caught:
        data = from_torch(
            Noisy(bad=bad, known=known), image_size=8, images=images, skip_corrupt=True,
            num_workers=num_workers,
        )  # fmt: skip
    named = str(caught[0].message).split(": ", 1)[1].split(", ")
    assert named == [f"item {number} of the training set" for number in (17, 31, 32, 40, 5)]
    kept = [number for split in parts(data) for number in numbers(split)]
    assert sorted(kept) == [number for number in range(60) if number not in bad]
    for split in parts(data):
        assert [number % 3 for number in numbers(split)] == split.labels.tolist()


def test_the_first_bad_item_is_named_where_none_may_be_left_out_or_all_are():
    with pytest.raises(ValueError, match="readable item 5 of the training set, got OSError"):
        from_torch(Noisy(bad=BAD), image_size=8)
    floats = [(torch.full((1, 8, 8), 2.0), index % 2) for index in range(40)]
    with pytest.raises(ValueError, match=r"not normalised, .* in item 0 of the training set"):
        from_torch(floats, image_size=8, skip_corrupt=True)


def test_errors_in_a_data_sets_own_code_keep_their_traceback():
    with pytest.raises(KeyError, match="column"):
        from_torch(Noisy(bad={7: KeyError("column")}), image_size=8)
    with pytest.raises(ValueError, match="my own check"):
        from_torch(Noisy(bad={7: ValueError("my own check")}), image_size=8)


def test_whatever_a_decoder_raises_its_item_is_left_out():
    bad = {7: RuntimeError("truncated"), 9: ValueError("no\nmagic"), 0: (None, 0)}
    with pytest.warns(UserWarning, match="3 of 60 images cannot be read"):
        from_torch(Noisy(bad=bad), image_size=8, skip_corrupt=True)
    bad = dict.fromkeys(range(60), KeyError("a\nb"))
    with pytest.raises(
        ValueError, match="readable item 0 of the training set, got KeyError: "
    ) as no:
        from_torch(Noisy(bad=bad), image_size=8, skip_corrupt=True)
    assert "\n" not in str(no.value)


@pytest.mark.parametrize("item", ["no pair", (torch.zeros(1, 8, 8), None)])
def test_a_bad_item_is_also_left_out_if_its_known_label_would_be_compared(item):
    with pytest.warns(UserWarning, match="1 of 60 images .* skipped: item 0 of the training set"):
        from_torch(Noisy(bad={0: item}, known=True), image_size=8, skip_corrupt=True)


def test_a_wrong_label_is_named_by_its_item_where_others_were_left_out():
    bad = {2: OSError("damaged"), 10: (torch.zeros(1, 8, 8), 3)}
    with (
        pytest.warns(UserWarning, match="1 of 60 images"),
        pytest.raises(ValueError, match="got 3 in item 10 of the training set"),
    ):
        from_torch(Noisy(bad=bad), image_size=8, classes=["a", "b", "c"], skip_corrupt=True)


def test_colour_that_appears_later_is_refused_in_one_line():
    class Later(Noisy):
        mode = 1

        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image[:1].expand(self.mode, -1, -1), label

    dataset = Later()
    data = from_torch(dataset, image_size=8, images="stream")
    dataset.mode = 3
    with pytest.raises(ValueError, match="expected grey images in the training set, as all were"):
        data.train.images[:4]


def test_images_are_held_once_and_pickled_once():
    data = from_torch(Noisy(known=True), image_size=8)
    storages = {split.images.untyped_storage().data_ptr() for split in parts(data)}
    assert len(storages) == 1
    n_bytes = sum(split.images.nbytes for split in parts(data))
    assert data.train.images.untyped_storage().nbytes() == n_bytes
    assert len(pickle.dumps(data)) < 1.3 * n_bytes + 4000
    copy = pickle.loads(pickle.dumps(data))
    assert all(map(torch.equal, *([part.images for part in parts(of)] for of in (data, copy))))


@pytest.mark.parametrize("fraction", [1.0, 0.9, 0.3])
def test_items_that_had_to_be_read_for_their_labels_are_read_once(fraction):
    class Counted(Noisy):
        n_read = 0

        def __getitem__(self, index):
            self.n_read += 1
            return super().__getitem__(index)

    dataset = Counted(n=200)
    data = from_torch(dataset, image_size=8, train_fraction=fraction)
    assert dataset.n_read == 200
    kept = [number for split in parts(data) for number in numbers(split)]
    assert len(set(kept)) == len(kept) == pytest.approx(40 + 160 * fraction, abs=1)
    held = data.train.images.untyped_storage().nbytes() / data.train.images[0].nbytes
    assert held == (200 if fraction > 0.5 else len(kept))


def test_rows_are_brought_to_the_front_in_any_order():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 30):
        for _ in range(20):
            images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).clone()
            rows = rng.permutation(n)[: rng.integers(0, n + 1)]
            item_set._bring_to_front(images, rows)
            assert images.flatten()[: len(rows)].tolist() == rows.tolist()
            assert sorted(images.flatten().tolist()) == list(range(n))


@pytest.mark.parametrize("images", ["memory", "stream"])
def test_test_items_that_are_also_trained_on_are_counted(images):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (50, 8, 8), dtype=np.uint8)
    train = [(pixels[index], index % 2) for index in range(40)]
    colour = np.repeat(pixels[[3, 41, 7]][..., None], 3, axis=3)  # of the same pixels in RGB
    test = [(image, 1) for image in (*pixels[42:45], *colour)]
    data = from_torch(train, test, image_size=8, images=images)
    (note,) = (note for note in data.notes if "also training" in note)
    assert note.startswith("2 of 6 test images are also training images, such as item ")
    pairs = {"item 3 of the test set and item 3 of", "item 5 of the test set and item 7 of"}
    assert any(f"{pair} the training set" in note for pair in pairs)


# Data sets whose pictures are decoded by us.


def test_an_image_folders_files_are_decoded_once_into_the_cache(make_folder, own_cache, decoded):
    root = make_folder()
    dataset = ImageFolder(root / "train")
    data = from_torch(dataset, image_size=8, images="stream")
    assert isinstance(data.train.images, StoredImages)
    assert sorted(decoded) == sorted(path for path, _ in dataset.samples)
    n = len(dataset) // 2
    half = from_torch(Subset(dataset, range(0, 2 * n, 2)), image_size=8)
    assert sum(len(split.labels) for split in parts(half)) == n
    assert len(decoded) == len(dataset)  # none again
    again = from_torch(dataset, image_size=8)
    assert len(decoded) == len(dataset)
    for one, other in zip(parts(data), parts(again), strict=True):
        assert torch.equal(one.images[:], other.images)


def inverted(image):
    return Image.eval(image, lambda value: 255 - value)


class InvertedPart(Subset):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return inverted(image), label

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def test_subclasses_that_change_items_are_asked_for_them(make_folder):
    dataset = ImageFolder(make_folder() / "train")
    data = from_torch(InvertedPart(dataset, range(len(dataset))), image_size=12)
    expected = {np.asarray(inverted(image)).transpose(2, 0, 1).tobytes() for image, _ in dataset}
    assert {image.numpy().tobytes() for image in data.train.images} <= expected


def test_samples_that_a_program_replaced_are_read(make_folder):
    root = make_folder()
    dataset = ImageFolder(root / "train")
    dataset.samples = [(str(path).replace("cat", "dog"), label) for path, label in dataset.samples]
    data = from_torch(dataset, image_size=12)
    expected = {np.asarray(image).transpose(2, 0, 1).tobytes() for image, _ in dataset}
    assert {image.numpy().tobytes() for image in data.train.images} <= expected


def test_relative_and_absolute_folders_can_be_mixed(make_folder, monkeypatch):
    root = make_folder()
    monkeypatch.chdir(root)
    data = from_torch(ImageFolder("train"), ImageFolder(root / "test"), image_size=8)
    assert len(data.test.labels) == len(ImageFolder("test"))


def test_what_opens_or_changes_its_images_itself_is_asked_for_them(make_folder):
    root = make_folder() / "train"

    class Mine(ImageFolder):
        pass

    for dataset in (
        Mine(root),
        ImageFolder(root, transform=lambda image: image.rotate(90)),
        ImageFolder(root, loader=lambda path: Image.open(path).convert("L")),
    ):
        data = from_torch(dataset, image_size=8, images="stream")
        assert isinstance(data.train.images, DatasetImages)


def test_files_of_image_folders_are_left_out_with_their_names(make_folder):
    root = make_folder() / "train"
    bad = [root / "cat" / "000.png", root / "dog" / "002.png"]
    bad[0].write_bytes(b"no image")
    dataset = ImageFolder(root)
    bad[1].unlink()
    with pytest.raises(ValueError, match=r"readable image, got .*cat/000\.png: not a picture"):
        from_torch(dataset, image_size=8)
    with pytest.warns(UserWarning, match=r"2 of \d+ images .* skipped: .*cat/000.png, .*dog/002"):
        data = from_torch(dataset, image_size=8, skip_corrupt=True)
    assert sum(len(split.labels) for split in parts(data)) == len(dataset) - 2
