"""Pictures and data sets as images whose height and width differ."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.data import decoding
from vit_patch_env.data.augment import AUGMENTATIONS
from vit_patch_env.data.datasets import load_dataset
from vit_patch_env.data.pictures import read_picture
from vit_patch_env.data.resize import resize_images
from vit_patch_env.data.rgb import BACKGROUND
from vit_patch_env.data.torch_datasets import from_torch

WHITE = BACKGROUND[0]


def framed(height, width, top, left):
    """A black picture, with a grey frame so wide above and below, and left and right."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[top : height - top, left : width - left] = 0
    return pixels


def both(pixels, image_size, resize, tmp_path):
    """Pixels of a file and of a tensor, resized."""
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    shown = resize_images(tensor, image_size, resize).numpy()
    return read_picture(str(path), image_size, resize), shown


@pytest.mark.parametrize(
    ("size", "frame", "image_size"),
    [((64, 32), (16, 0), (24, 24)), ((32, 32), (8, 0), (16, 32)), ((32, 32), (0, 8), (32, 16)),
     ((40, 90), (0, 10), (20, 35)), ((90, 40), (20, 0), (50, 40))],
)  # fmt: skip
def test_the_centre_of_the_images_aspect_is_kept(size, frame, image_size, tmp_path):
    for pixels in both(framed(*size, *frame), image_size, "crop", tmp_path):
        assert pixels.shape == (3, *np.broadcast_to(image_size, 2))
        assert pixels[:, 2:-2, 2:-2].max() <= 8  # antialiasing at the border
        assert pixels.mean() < 8


@pytest.mark.parametrize("size", [(32, 32), (11, 70), (70, 11)])
def test_stretched_pictures_fill_the_image(size, tmp_path):
    for pixels in both(framed(*size, 0, 0), (16, 24), "stretch", tmp_path):
        assert pixels.shape == (3, 16, 24)
        assert not pixels.any()


@pytest.mark.parametrize(
    ("size", "image_size", "shown"),
    [((32, 32), (16, 24), (slice(None), slice(4, 20))),
     ((10, 40), (16, 32), (slice(4, 12), slice(None))),
     ((40, 60), (16, 24), (slice(None), slice(None)))],
)  # fmt: skip
def test_padded_pictures_are_whole_with_white_around(size, image_size, shown, tmp_path):
    for pixels in both(framed(*size, 0, 0), image_size, "pad", tmp_path):
        expected = np.full((3, *image_size), WHITE)
        expected[:, *shown] = 0
        assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
def test_a_picture_of_the_right_shape_stays_as_it_is(resize, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    for shown in both(pixels, (12, 20), resize, tmp_path):
        assert np.array_equal(shown, pixels.transpose(2, 0, 1))


def test_drafts_of_photographs_are_decoded_at_twice_the_size_needed(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(framed(800, 1600, 0, 400)).save(path, quality=95)
    pixels = read_picture(str(path), (40, 40), "crop")
    assert pixels.mean() < 8
    assert read_picture(str(path), (40, 80), "crop")[:, :, :18].mean() > 110


def test_folders_are_cached_by_shape(make_folder, own_cache):
    root = make_folder()
    env = {"dataset": "folder", "data_dir": str(root), "batch_size": 4, "epochs": 1}
    for size in (16, (16, 24), (24, 16)):
        data = ViTPatchSelectEnv(**TINY | env | {"image_size": size, "n_patches_desired": 2}).data
        assert data.train.images.shape[2:] == tuple(np.broadcast_to(size, 2))
    names = sorted(path.name.split("-", 1)[1] for path in own_cache.glob("**/*-crop"))
    assert names == ["16-crop", "16x24-crop", "24x16-crop"]


def test_many_pictures_are_decoded_in_processes(make_folder, own_cache, monkeypatch):
    data_dir = make_folder()
    alone = load_dataset("folder", data_dir=data_dir, image_size=(8, 12))
    monkeypatch.setattr(decoding, "_MANY", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache / "other"))
    processes = load_dataset("folder", data_dir=data_dir, image_size=(8, 12))
    assert torch.equal(alone.train.images[:], processes.train.images[:])


@pytest.mark.parametrize("images", ["memory", "stream"])
@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_named_data_sets_get_any_shape(name, images):
    data = load_dataset(name, image_size=(16, 24), images=images, train_fraction=0.1)
    assert data.train.images[:2].shape[2:] == (16, 24)
    assert data.train.images.shape[2:] == (16, 24)


def test_the_quadrants_of_synthetic_images_are_their_classes():
    images, labels = load_dataset("synthetic", image_size=(8, 16)).train
    quadrants = images.float().mean(dim=1).reshape(-1, 2, 4, 2, 8).mean(dim=(2, 4)).flatten(1)
    assert (quadrants.argmax(dim=1) == labels).float().mean() > 0.99


@pytest.mark.parametrize("images", ["memory", "stream"])
def test_items_of_a_users_data_set_get_any_shape(images):
    items = [
        (torch.full((3, 9, 9), 10 * index, dtype=torch.uint8), index % 2) for index in range(20)
    ]
    data = from_torch(items, image_size=(4, 8), images=images)
    assert data.train.images[:3].shape == (3, 3, 4, 8)


@pytest.mark.parametrize("augment", sorted(AUGMENTATIONS))
def test_every_augmentation_keeps_the_shape_and_trains(augment):
    env = ViTPatchSelectEnv(
        **TINY | {"image_size": (16, 32), "n_patches_desired": 4, "augment": augment},
        random_erasing=0.5, mixup=0.5, cutmix=1.0, train_fraction=0.3,
    )  # fmt: skip
    env.reset(seed=0)
    for _ in range(2):
        assert env.episode.run.batch.images.shape[2:] == (16, 32)
        env.step(np.ones(8, np.int8))


def test_random_crops_have_the_images_aspect():
    """Crops of flat images are as flat, within 3/4 to 4/3: they show as much of both sides."""
    columns = torch.arange(64).expand(200, 3, 16, 64).to(torch.uint8)
    rows = (4 * torch.arange(16))[:, None].expand(200, 3, 16, 64).to(torch.uint8)
    transform = AUGMENTATIONS["random-resized-crop"]().transform
    shown = []
    for images in (columns, rows):
        torch.manual_seed(0)
        crops = transform(images)[:, 0].float()
        shown.append((crops.amax((1, 2)) - crops.amin((1, 2))).mean())
    assert 0.9 < shown[0] / shown[1] < 1.25
