"""Images in memory or read batch by batch: the same batches, and only those that are used."""

import copy
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, PngImagePlugin

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.data import decoding, sources
from vit_patch_env.data.datasets import load_dataset
from vit_patch_env.data.picture_source import StoredImages
from vit_patch_env.data.splits import ImageData, Split
from vit_patch_env.experiments.cli import main
from vit_patch_env.system.cache import IMAGES, cache_dir, entries, make_room

FOLDER = TINY | {"dataset": "folder", "image_size": 16, "patch_size": 4, "batch_size": 8}


def losses(env, n_steps=8):
    """Rewards of steps with the same masks, and then the metrics."""
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    rewards = [env.step(rng.random(16) < 0.5)[1] for _ in range(n_steps)]
    return rewards, env.evaluate("val"), env.evaluate("test")


def test_a_run_is_the_same_in_memory_and_streamed(make_folder):
    root = str(make_folder(n_images=24))
    kept = {
        images: ViTPatchSelectEnv(**FOLDER, data_dir=root, images=images)
        for images in ("memory", "stream")
    }
    assert losses(kept["memory"]) == losses(kept["stream"])
    assert isinstance(kept["memory"].data.train.images, torch.Tensor)
    assert isinstance(kept["stream"].data.train.images, StoredImages)
    assert kept["memory"].data.channel_mean == kept["stream"].data.channel_mean
    assert kept["memory"].data.channel_std == kept["stream"].data.channel_std
    assert not kept["memory"].data.notes
    assert "read from" in kept["stream"].data.notes[0]


def test_a_streamed_run_resumes_in_memory_and_the_other_way(make_folder, tmp_path):
    root = str(make_folder(n_images=24))

    def env(images):
        return ViTPatchSelectEnv(**FOLDER, data_dir=root, images=images)

    rng = np.random.default_rng(0)
    masks = rng.random((8, 16)) < 0.5
    whole = env("memory")
    whole.reset(seed=1)
    expected = [whole.step(mask)[1] for mask in masks]
    for first, second in (("stream", "memory"), ("memory", "stream")):
        begun = env(first)
        begun.reset(seed=1)
        assert [begun.step(mask)[1] for mask in masks[:4]] == expected[:4]
        begun.save(tmp_path / "state")
        resumed = env(second)
        resumed.load(tmp_path / "state")
        assert [resumed.step(mask)[1] for mask in masks[4:]] == expected[4:]


def test_only_the_images_that_are_used_are_decoded(make_folder, decoded):
    root = make_folder(n_images=40)
    data = load_dataset("folder", data_dir=root, image_size=8, train_fraction=0.25)
    assert len(data.train.labels) + len(data.val.labels) == 20
    assert len(data.test.labels) == 80
    assert len(set(decoded)) == len(decoded) == 100
    decoded.clear()
    load_dataset("folder", data_dir=root, image_size=8, train_fraction=0.5)
    assert len(decoded) == 20 or 0 < len(decoded) <= 40
    decoded.clear()
    load_dataset("folder", data_dir=root, image_size=8, train_fraction=0.5)
    assert not decoded


def test_images_are_streamed_if_they_would_take_more_than_half_of_the_memory(
    make_folder, monkeypatch
):
    root = make_folder(n_images=20)
    n_bytes = 80 * 3 * 8 * 8
    for available, kind in ((2 * n_bytes, torch.Tensor), (2 * n_bytes - 2, StoredImages)):
        monkeypatch.setattr(sources, "available_memory", lambda available=available: available)
        data = load_dataset("folder", data_dir=root, image_size=8)
        assert isinstance(data.train.images, kind)
        assert isinstance(data.test.images, kind)


def test_streamed_images_are_pickled_by_reference(make_folder):
    data = load_dataset("folder", data_dir=make_folder(), image_size=64, images="stream")
    content = pickle.dumps(data)
    assert len(content) < 30_000
    again = pickle.loads(content)
    order = np.array([5, 0, 3])
    assert torch.equal(again.train.images[order], data.train.images[order])
    assert torch.equal(again.train.images[1:3], data.train.images[torch.tensor([1, 2])])


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_streamed_images_survive_the_removal_of_the_cache(make_folder, own_cache, how):
    root = make_folder()
    data = load_dataset("folder", data_dir=root, image_size=8, images="stream")
    expected = data.train.images[:]
    content = pickle.dumps(data)
    shutil.rmtree(own_cache / IMAGES)
    for path in sorted(root.rglob("*.png"))[:30]:  # which then have other rows
        path.rename(path.with_name("a" + path.name)) if "test" in str(path) else None
    again = pickle.loads(content) if how == "pickle" else copy.deepcopy(data)
    with suppress(ValueError):  # "expected the files that a run uses not to change"
        assert torch.equal(again.train.images[:], expected)
    assert torch.equal(data.train.images[:], expected)


def test_files_that_changed_under_a_streamed_run_are_refused_in_other_processes(make_folder):
    root = make_folder()
    data = load_dataset("folder", data_dir=root, image_size=8, images="stream")
    Image.new("RGB", (12, 12), (9, 9, 9)).save(root / "train" / "cat" / "003.png")
    with pytest.raises(ValueError, match="expected the pictures that a run uses not to change"):
        pickle.loads(pickle.dumps(data)).train.images[:]


def test_a_fault_of_the_machine_is_not_remembered_as_one_of_the_file(make_folder, monkeypatch):
    root = make_folder()
    read = decoding.read_picture

    def failing(path, *args):
        if path.endswith("dog/003.png"):
            raise ValueError("expected a readable image, got Input/output error")
        return read(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "read_picture", failing)
        with pytest.warns(UserWarning, match="2 of 80 images cannot be read"):
            load_dataset("folder", data_dir=root, image_size=8, skip_corrupt=True)
    data = load_dataset("folder", data_dir=root, image_size=8, skip_corrupt=True)
    assert sum(len(split.labels) for split in (data.train, data.val, data.test)) == 80


def test_images_larger_than_the_limit_are_refused(make_folder, own_cache, monkeypatch):
    monkeypatch.setenv("VIT_PATCH_CACHE_GB", "0.00001")
    with pytest.raises(ValueError, match=r"expected at most 0\.0 GB .*VIT_PATCH_CACHE_GB.* got 0"):
        load_dataset("folder", data_dir=make_folder(), image_size=32)


def test_nothing_is_removed_for_images_that_have_no_room_anyway(
    make_folder, own_cache, monkeypatch
):
    monkeypatch.setenv("VIT_PATCH_CACHE_GB", "1e9")
    load_dataset("folder", data_dir=make_folder("first"), image_size=8)
    (entry,) = entries(own_cache)
    with pytest.raises(ValueError, match="GB of free space"):
        make_room(own_cache, 10**14, keep=own_cache)
    assert entries(own_cache) == [entry]


def test_a_data_set_in_memory_is_resized_batch_by_batch_too():
    kept = {
        images: load_dataset("digits", image_size=24, images=images)
        for images in ("memory", "stream")
    }
    order = np.array([70, 3, 3, 9])
    for split in ("train", "val", "test"):
        one, other = (getattr(data, split) for data in kept.values())
        assert torch.equal(one.images[order], other.images[order])
        assert torch.equal(one.labels, other.labels)
    assert kept["memory"].channel_std == kept["stream"].channel_std
    assert "resized batch by batch" in kept["stream"].notes[0]


def test_statistics_of_more_pixels_than_64_bits_can_square():
    class Many:
        shape = torch.Size((100_000, 1, 224, 224))

        def channel_sums(self):
            n = 100_000 * 224 * 224  # half of them 100, half 200
            return np.array([150 * n]), np.array([25_000 * n])

    split = Split(Many(), torch.zeros(1))
    data = ImageData(split, split, split, ("a", "b"), flip=True)
    assert data.channel_mean == (150 / 255,)
    assert data.channel_std == pytest.approx((50 / 255,), rel=1e-12)


def test_decoding_continues_where_it_was_interrupted(make_folder, decoded, monkeypatch):
    root = make_folder(n_images=100)
    read = decoding.read_picture

    def interrupted(path, *args):
        if len(decoded) == 300:
            raise KeyboardInterrupt
        return read(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "read_picture", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_dataset("folder", data_dir=root, image_size=8)
    n_before = len(decoded)
    load_dataset("folder", data_dir=root, image_size=8)
    assert n_before >= 250
    assert len(decoded) - n_before <= 400 - 250


@pytest.mark.long
def test_a_killed_process_loses_ten_seconds_of_decoding_at_most(
    make_folder, own_cache, decoded, monkeypatch
):
    root = make_folder(n_images=300)
    code = (
        "import sys, time; from vit_patch_env.data import picture_source, store; "
        "from vit_patch_env import load_dataset; store._SAVE_EVERY = 0; "
        "picture_source._AT_ONCE = 16; "
        "load_dataset('folder', data_dir=sys.argv[1], image_size=8)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(own_cache.glob(f"{IMAGES}/*/index")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    load_dataset("folder", data_dir=root, image_size=8)
    assert len(decoded) < 1200
    assert not list(own_cache.glob("**/*.tmp"))


@pytest.mark.long
def test_many_files_are_decoded_by_processes_with_the_same_result(
    make_folder, own_cache, monkeypatch
):
    root = make_folder(n_images=30)
    broken = root / "train" / "dog" / "020.png"
    broken.write_bytes(b"no picture")
    messages, images = [], []
    for many in (decoding._MANY, 1):
        monkeypatch.setattr(decoding, "_MANY", many)
        with pytest.raises(ValueError, match=r"dog/020\.png") as raised:
            load_dataset("folder", data_dir=root, image_size=9)
        messages.append(str(raised.value))
        with pytest.warns(UserWarning, match="1 of 120 images cannot be read"):
            data = load_dataset("folder", data_dir=root, image_size=9, skip_corrupt=True)
        images.append(data.train.images)
        del data
        shutil.rmtree(own_cache / IMAGES)
    assert messages[0] == messages[1]
    assert torch.equal(*images)


def test_the_end_of_a_decoding_process_is_one_line(make_folder, monkeypatch):
    monkeypatch.setattr(decoding, "_MANY", 1)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ValueError, match=r"decodes images to go on, got its end with status 1 at"):
        load_dataset("folder", data_dir=make_folder(), image_size=9)


def test_two_processes_decode_one_after_the_other(make_folder, own_cache, decoded):
    root = make_folder(n_images=60)
    loaded = []
    threads = [
        threading.Thread(
            target=lambda: loaded.append(load_dataset("folder", data_dir=root, image_size=8))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 240
    assert all(torch.equal(one.train.images, loaded[0].train.images) for one in loaded)


def test_an_image_that_the_cache_damaged_is_decoded_again(make_folder, own_cache, decoded):
    root = make_folder()
    expected = load_dataset("folder", data_dir=root, image_size=8).train.images
    (pixels,) = own_cache.glob(f"{IMAGES}/*/pixels")
    content = bytearray(pixels.read_bytes())
    content[1000:1500] = bytes(500)
    for images in ("stream", "memory"):
        pixels.write_bytes(content)
        decoded.clear()
        again = load_dataset("folder", data_dir=root, image_size=8, images=images)
        assert torch.equal(again.train.images[:], expected)
        assert 0 < len(decoded) < 6


def test_files_that_changed_are_decoded_again_and_only_those(make_folder, decoded):
    root = make_folder()
    load_dataset("folder", data_dir=root, image_size=8)
    decoded.clear()
    Image.new("RGB", (12, 12), (9, 9, 9)).save(root / "train" / "cat" / "003.png")
    Image.new("RGB", (12, 12), (8, 8, 8)).save(root / "train" / "cat" / "999.png")
    data = load_dataset("folder", data_dir=root, image_size=8)
    assert {os.path.basename(path) for path in decoded} == {"003.png", "999.png"}  # noqa: PTH119
    flat = torch.cat([split.images[:].flatten(1) for split in (data.train, data.val, data.test)])
    assert (flat == 9).all(dim=1).sum() == (flat == 8).all(dim=1).sum() == 1


def test_images_in_both_training_and_test_folder_are_counted(make_folder):
    root = make_folder()
    assert not load_dataset("folder", data_dir=root, image_size=12).notes
    shutil.copy(root / "train" / "dog" / "004.png", root / "test" / "dog" / "x.png")
    shutil.copy(root / "train" / "cat" / "002.png", root / "test" / "cat" / "y.bmp")
    (note,) = load_dataset("folder", data_dir=root, image_size=12).notes
    assert note.startswith("2 of 42 test images are also training images, such as ")
    assert note.endswith(("dog/004.png", "cat/002.png"))


def test_a_store_of_files_that_are_gone_starts_over(make_folder, own_cache):
    root = make_folder(n_images=60)
    load_dataset("folder", data_dir=root, image_size=8)
    (pixels,) = own_cache.glob(f"{IMAGES}/*/pixels")
    before = pixels.stat().st_size
    for path in [*root.rglob("*.png")]:
        if int(path.stem) >= 10:
            path.unlink()
    load_dataset("folder", data_dir=root, image_size=8)
    assert pixels.stat().st_size == before // 6


def test_those_used_longest_ago_make_room(make_folder, own_cache, monkeypatch):
    roots = [make_folder(name, n_images=40) for name in ("first", "second", "third")]
    monkeypatch.setenv("VIT_PATCH_CACHE_GB", "0.0012")
    for root in roots:
        load_dataset("folder", data_dir=root, image_size=32)
        if root is roots[1]:  # the first is used again
            load_dataset("folder", data_dir=roots[0], image_size=32)
    found = [entry.about for entry in entries(own_cache)]
    assert found == [str(roots[2]), str(roots[0])]


def test_a_disk_that_is_too_small_is_named(make_folder, own_cache, monkeypatch):
    monkeypatch.setenv("VIT_PATCH_CACHE_GB", "1e9")
    root = make_folder()
    load_dataset("folder", data_dir=root, image_size=8)
    (pixels,) = own_cache.glob(f"{IMAGES}/*/pixels")
    with pytest.raises(ValueError, match=r"expected 1000000\.0 GB of free space .* got \d+\.\d GB"):
        make_room(own_cache, 10**15, keep=pixels.parent)


def test_the_command_shows_and_clears_the_cache(make_folder, own_cache, capsys, monkeypatch):
    root = make_folder()
    load_dataset("folder", data_dir=root, image_size=8)
    (own_cache / "old-0123456789abcdef-32.safetensors").write_bytes(bytes(10**6))
    main(["cache"])
    shown = capsys.readouterr().out
    assert root.name in shown.replace("\n", "")
    assert "1.0 MB" in shown
    assert "at most 100.0 GB (VIT_PATCH_CACHE_GB)" in shown
    main(["cache", "--clear"])
    assert "Removed 1." in capsys.readouterr().out
    assert not entries(cache_dir())
    monkeypatch.setenv("VIT_PATCH_CACHE_GB", "much")
    with pytest.raises(SystemExit):
        main(["cache"])
    assert "VIT_PATCH_CACHE_GB must be a number of gigabytes, got 'much'" in capsys.readouterr().err


def test_the_command_line_says_that_images_are_streamed(make_folder, tmp_path, capsys):
    root = make_folder()
    options = [
        word for name, value in FOLDER.items() for word in (f"--{name.replace('_', '-')}", value)
    ]
    words = [*map(str, options), "--data-dir", str(root), "--images", "stream", "--epochs", "1"]
    main(["train", *words, "--agent", "all", "--out", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert "80 images of 16 x 16 pixels (0.0 GB) are read from" in shown
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"]


@pytest.mark.long
def test_processes_decode_with_the_programs_settings_of_pillow(make_folder, monkeypatch):
    root = make_folder(n_images=4)
    path = root / "train" / "cat" / "000.png"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path.with_suffix(".jpg"))
    path.unlink()
    content = path.with_suffix(".jpg").read_bytes()
    path.with_suffix(".jpg").write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(decoding, "_MANY", 1)
    with pytest.raises(ValueError, match="truncated"):
        load_dataset("folder", data_dir=root, image_size=8, val_fraction=0.4)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    load_dataset("folder", data_dir=root, image_size=8, val_fraction=0.4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"exceeds limit of \d+ pixels"):
        load_dataset("folder", data_dir=root, image_size=9, val_fraction=0.4)


def test_formats_of_the_program_are_decoded_by_it(make_folder, monkeypatch):
    class Upside(PngImagePlugin.PngImageFile):
        format = "UPSIDE"

    root = make_folder(n_images=4)
    for path in root.glob("*/*/*.png"):
        path.write_bytes(b"UPSIDE" + path.read_bytes())
    monkeypatch.setattr(decoding, "_MANY", 1)
    monkeypatch.setattr(Image, "ID", [*Image.ID, "UPSIDE"])
    opener = lambda file, name: Upside(io.BytesIO(file.read()[6:]), name)  # noqa: E731
    accept = lambda prefix: prefix.startswith(b"UPSIDE")  # noqa: E731
    monkeypatch.setitem(Image.OPEN, "UPSIDE", (opener, accept))
    data = load_dataset("folder", data_dir=root, image_size=8, val_fraction=0.4)
    assert len(data.train.labels) > 0
