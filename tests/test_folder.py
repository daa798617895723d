import os
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.data import decoding
from vit_patch_env.data.datasets import load_dataset
from vit_patch_env.data.image_folder import folder_source
from vit_patch_env.data.layouts import check_layout
from vit_patch_env.data.pictures import SUFFIXES
from vit_patch_env.data.resize import Form, resize_square
from vit_patch_env.system.cache import cache_dir


def load_image_folder(root, image_size, cache, *, skip_corrupt=False):
    """All images (n, 3, height, width) of a folder of classes, labels and class names, in order."""
    source = folder_source(root, Form(image_size, "crop"), cache, skip_corrupt=skip_corrupt)
    positions = np.arange(len(source.labels))
    positions = positions[source.prepare(positions)]
    return source.read_rows(positions), torch.from_numpy(source.labels[positions]), source.classes


def test_images_labels_and_classes_come_in_the_folders_order(make_folder, own_cache):
    root = make_folder(splits=("train",), n_images=3)
    images, labels, classes = load_image_folder(root / "train", 12, own_cache)
    assert classes == ("cat", "dog")
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = np.asarray(Image.open(root / "train" / "dog" / "001.png"))
    assert np.array_equal(images[4].permute(1, 2, 0).numpy(), expected)


def test_the_cache_is_read_instead_of_the_files(make_folder, own_cache, monkeypatch):
    root = make_folder() / "train"
    first = load_image_folder(root, 12, own_cache)
    monkeypatch.setattr(decoding, "read_picture", lambda *args: pytest.fail("decoded again"))
    second = load_image_folder(root, 12, own_cache)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert first[2] == second[2]


@pytest.mark.parametrize("change", ["edit", "add", "remove"])
def test_the_cache_is_rebuilt_when_files_change(make_folder, own_cache, change):
    root = make_folder() / "train"
    path = root / "cat" / "000.png"
    before, _, _ = load_image_folder(root, 12, own_cache)
    if change == "edit":
        Image.new("RGB", (12, 12), (9, 9, 9)).save(path)
        os.utime(path, ns=(1, 1))
    elif change == "add":
        Image.new("RGB", (12, 12)).save(root / "cat" / "zzz.png")
    else:
        path.unlink()
    after, labels, _ = load_image_folder(root, 12, own_cache)
    assert len(labels) == {"edit": 40, "add": 41, "remove": 39}[change]
    if change == "edit":
        assert (after[0] == 9).all()
        assert torch.equal(after[1:], before[1:])


def test_every_image_size_has_its_own_cache(make_folder, own_cache):
    root = make_folder() / "train"
    assert load_image_folder(root, 12, own_cache)[0].shape[-1] == 12
    assert load_image_folder(root, 8, own_cache)[0].shape[-1] == 8
    assert len(list(own_cache.glob("images/*/pixels"))) == 2
    assert not list(own_cache.glob("**/*.tmp"))


def test_an_unreadable_image_is_named_each_time(make_folder):
    root = make_folder()
    broken = root / "train" / "dog" / "007.png"
    broken.write_bytes(broken.read_bytes()[:100])
    for _ in range(2):
        with pytest.raises(ValueError, match=f"expected a readable image, got {broken}"):
            load_dataset("folder", data_dir=root, image_size=12)


def test_corrupt_images_are_skipped_and_named_on_request(make_folder, own_cache):
    root = make_folder(splits=("train",), n_images=6) / "train"
    whole, _, _ = load_image_folder(root, 12, own_cache)
    broken = [root / "cat" / "002.png", root / "dog" / "000.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    named = f"2 of 12 images cannot be read and are skipped: {broken[0]}, {broken[1]}"
    for _ in ("decoded", "from the cache"):
        with pytest.warns(UserWarning, match=named):
            images, labels, classes = load_image_folder(root, 12, own_cache, skip_corrupt=True)
        assert labels.tolist() == [0] * 5 + [1] * 5
        assert torch.equal(images, whole[[0, 1, 3, 4, 5, 7, 8, 9, 10, 11]])
        assert classes == ("cat", "dog")
    with pytest.raises(ValueError, match=f"expected a readable image, got {broken[0]}"):
        load_image_folder(root, 12, own_cache)  # which the cache must not hide


def test_a_class_of_which_no_image_can_be_read_is_named(make_folder):
    root = make_folder() / "train"
    for path in (root / "dog").iterdir():
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="20 of 80 images cannot be read"),
        pytest.raises(ValueError, match="expected training images of every class, got none of dog"),
    ):
        load_dataset("folder", data_dir=root.parent, image_size=12, skip_corrupt=True)


def test_skipping_corrupt_images_is_on_the_command_line_and_in_the_environment(make_folder):
    root = make_folder(n_images=80)
    (root / "train" / "cat" / "000.png").write_bytes(b"no image")
    kwargs = {**TINY, "dataset": "folder", "data_dir": str(root)}
    with pytest.raises(ValueError, match="expected a readable image"):
        ViTPatchSelectEnv(**kwargs).reset()
    with pytest.warns(UserWarning, match="1 of 320 images cannot be read"):
        ViTPatchSelectEnv(**kwargs, skip_corrupt=True).reset()


@pytest.mark.parametrize("times", [1.5, 3])  # a warning, and an error, of Pillow's
def test_images_beyond_pillows_limit_are_refused(times, make_folder, own_cache, monkeypatch):
    root = make_folder(splits=("train",), n_images=2) / "train"
    path = root / "cat" / "bomb.png"
    Image.new("L", (round(100 * times), 100)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)
    with pytest.raises(ValueError, match=f"got {path}: Image size .* exceeds limit of"):
        load_image_folder(root, 12, own_cache)
    with pytest.warns(UserWarning, match="1 of 5 images cannot be read"):
        load_image_folder(root, 12, own_cache, skip_corrupt=True)


def test_a_small_file_that_claims_to_be_huge_is_refused(make_folder, own_cache):
    root = make_folder(splits=("train",), n_images=2) / "train"
    path = root / "cat" / "000.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (10**5).to_bytes(4, "big") * 2  # width and height of a PNG
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"got {path}: Image size .*could be decompression bomb"):
        load_image_folder(root, 12, own_cache)


def test_images_that_fit_neither_into_memory_nor_on_the_disk_are_refused(
    make_folder, own_cache, monkeypatch
):
    root = make_folder(splits=("train",), n_images=10)
    monkeypatch.setenv("VIT_PATCH_CACHE_GB", "1e9")
    with pytest.raises(ValueError, match=r"expected 5400\.0 GB of free space for decoded images"):
        load_dataset("folder", data_dir=root, image_size=300_000)
    monkeypatch.setattr("vit_patch_env.system.memory.memory_limit", lambda: 1000)
    with pytest.raises(ValueError, match="expected 20 images of image_size 12 to fit into"):
        load_dataset("folder", data_dir=root, image_size=12, images="memory")


@pytest.mark.parametrize("splits", [("train",), ("test",), ("",)])
def test_a_single_folder_of_classes_has_a_share_held_out(make_folder, splits):
    data = load_dataset("folder", data_dir=make_folder(splits=splits), image_size=12)
    sizes = [len(split.labels) for split in (data.train, data.val, data.test)]
    assert sizes == [28, 4, 8]


def test_train_and_test_folders_are_separate_splits(make_folder):
    data = load_dataset("folder", data_dir=make_folder(), image_size=12)
    assert [len(split.labels) for split in (data.train, data.val, data.test)] == [36, 4, 40]
    assert data.flip
    assert data.train.images.is_contiguous()


def find_folder_splits(root):
    check_layout(root, SUFFIXES)


def test_what_is_missing_in_a_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        find_folder_splits(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"expected at least two class folders in .*, got none"):
        find_folder_splits(tmp_path)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"expected at least two class folders in .*, got cat"):
        find_folder_splits(tmp_path)


def test_a_class_without_images_is_left_out_and_named(make_folder):
    root = make_folder(splits=("train",))
    (root / "train" / "empty").mkdir()
    data = load_dataset("folder", data_dir=root)
    assert data.classes == ("cat", "dog")
    assert "empty" in " ".join(data.notes)


def test_other_classes_in_train_and_test_are_named(make_folder):
    root = make_folder()
    (root / "test" / "dog").rename(root / "test" / "cow")
    with pytest.raises(ValueError, match=r"expected the same classes .*, got cow, dog in only one"):
        load_dataset("folder", data_dir=root, image_size=12)


def test_a_broken_cache_is_rebuilt(make_folder, own_cache):
    root = make_folder() / "train"
    before, _, _ = load_image_folder(root, 12, own_cache)
    (path,) = own_cache.glob("images/*/index")
    path.write_bytes(b"torn")
    assert torch.equal(load_image_folder(root, 12, own_cache)[0], before)
    assert path.stat().st_size > 1000


def test_a_cache_that_cannot_be_written_is_only_a_warning(make_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="decoded images cannot be cached"):
        images, _, _ = load_image_folder(make_folder() / "train", 12, tmp_path / "file" / "cache")
    assert len(images) == 40


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16"])
def test_images_of_every_common_mode_become_rgb(mode, make_folder, own_cache):
    root = make_folder(splits=("train",), n_images=2)
    picture = Image.new("L", (12, 12), 77)
    suffix = "jpg" if mode == "CMYK" else "png"
    path = root / "train" / "cat" / f"other.{suffix}"
    deep = Image.new("I;16", (12, 12), 77 * 257)
    (deep if mode == "I;16" else picture.convert(mode)).save(path)
    images, _, _ = load_image_folder(root / "train", 12, own_cache)
    assert (images[2].int() - 77).abs().max() <= 2


def test_split_folders_and_hidden_folders_are_not_classes(make_folder, tmp_path):
    root = make_folder(splits=("Train", "Test"))
    assert load_dataset("folder", data_dir=root, image_size=12).classes == ("cat", "dog")
    root = make_folder(name="other", splits=("train",))
    (root / "train" / ".ipynb_checkpoints").mkdir()
    assert load_dataset("folder", data_dir=root, image_size=12).classes == ("cat", "dog")


def test_resize_square_keeps_the_centre():
    wide = torch.zeros(3, 8, 16, dtype=torch.uint8)
    wide[..., 4:12] = 200
    assert (resize_square(wide, 8) == 200).all()
    assert resize_square(wide, 4).shape == (3, 4, 4)


def test_cache_dir_follows_the_xdg_variable(own_cache, monkeypatch, tmp_path):
    assert cache_dir() == own_cache
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "vit-patch-env"
