import fcntl
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from vit_patch_env.data import store as store_module
from vit_patch_env.data.images import channel_sums
from vit_patch_env.data.store import DECODED, EMPTY, Store
from vit_patch_env.system.cache import Descriptor, entries, remove

SHAPE = (3, 5, 4)


def image(seed):
    return np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)


def keys(n):
    return [f"{number:032}".encode() for number in range(n)]


def opened(folder, **options):
    """A store in a folder, loaded."""
    store = Store(folder, SHAPE, **options)
    with store.locked():
        store.load()
    return store


@pytest.fixture
def store(tmp_path):
    """A store of ten rows, of which the even ones are decoded."""
    store = opened(tmp_path / "store")
    rows = store.rows(keys(10))
    for row in rows[::2]:
        store.put(row, image(row))
    store.save()
    return store


def test_what_was_put_is_read_again_in_any_order(store):
    images, damaged = store.read(np.array([4, 0, 8, 4]))
    assert not damaged
    assert np.array_equal(images, np.stack([image(seed) for seed in (4, 0, 8, 4)]))


def test_another_process_sees_what_was_saved(store):
    again = opened(store.folder)
    rows = again.rows(keys(10))
    expected = [DECODED, EMPTY] * 5
    assert again.states(rows).tolist() == expected
    assert np.array_equal(again.read(rows[2:3])[0][0], image(2))


def test_keys_keep_their_rows_and_new_ones_are_added(store):
    mixed = [keys(12)[11], keys(12)[3], keys(12)[10], keys(12)[11]]
    assert store.rows(mixed).tolist() == [10, 3, 11, 10]
    assert store.states(np.array([10, 11])).tolist() == [EMPTY, EMPTY]


def test_what_was_not_saved_is_decoded_again(store, tmp_path):
    store.put(1, image(1))
    assert opened(tmp_path / "store").states(np.array([0, 1])).tolist() == [DECODED, EMPTY]


def test_the_index_is_read_once_by_who_holds_the_lock(store, tmp_path, monkeypatch):
    read = []
    original = store_module._read_index
    monkeypatch.setattr(
        store_module, "_read_index", lambda *args: read.append(args) or original(*args)
    )
    other = Store(tmp_path / "store", SHAPE)
    store.put(1, image(1))
    store.save()
    with other.locked():
        other.load()
    assert len(read) == 1
    assert other.states(np.array([1, 3])).tolist() == [DECODED, EMPTY]


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_images_are_found_when_they_are_first_read(store, tmp_path, damage):
    pixels = tmp_path / "store" / "pixels"
    content = bytearray(pixels.read_bytes())
    content[4 * 60 + 7] ^= 1
    pixels.write_bytes(content if damage == "flip" else content[: 4 * 60 + 30])
    again = opened(tmp_path / "store")
    if damage == "truncate":
        assert again.states(np.array([0, 2, 4, 6])).tolist() == [DECODED, DECODED, EMPTY, EMPTY]
        return
    assert again.read(np.array([2, 4, 6]))[1] == [1]
    again.repair(4, image(4))
    assert again.read(np.array([2, 4, 6]))[1] == []
    assert opened(tmp_path / "store").read(np.array([2, 4, 6]))[1] == []


@pytest.mark.parametrize("damage", [b"", b"something else", None])
def test_a_damaged_index_is_that_of_an_empty_store(store, tmp_path, damage):
    index = tmp_path / "store" / "index"
    content = index.read_bytes()
    index.write_bytes(content[:-3] if damage is None else damage)
    assert not opened(tmp_path / "store").keys


def test_a_cleared_store_does_not_disturb_its_readers(store, tmp_path):
    other = opened(tmp_path / "store")
    other.clear()
    assert not other.keys
    assert np.array_equal(store.read(np.array([2]))[0][0], image(2))
    assert not (tmp_path / "store" / "index").exists()


def test_a_store_that_was_removed_is_made_again_by_the_next_load(store, tmp_path):
    other = Store(tmp_path / "store", SHAPE)
    shutil.rmtree(tmp_path / "store")
    with other.locked():
        other.load()
        (row,) = other.rows([b"new"])
        other.put(row, image(1))
        other.save()
    assert np.array_equal(store.read(np.array([2]))[0][0], image(2))
    assert np.array_equal(opened(tmp_path / "store").read(np.array([0]))[0][0], image(1))


def test_waiting_for_another_process_is_said(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vit_patch_env.data.store._SILENT_WAIT", 0.05)
    others = Descriptor(tmp_path / "store.lock")
    fcntl.flock(others.number, fcntl.LOCK_EX)
    timer = threading.Timer(0.3, fcntl.flock, (others.number, fcntl.LOCK_UN))
    timer.start()
    Store(tmp_path / "store", SHAPE, about="my pictures")
    timer.join()
    shown = capsys.readouterr().err
    assert shown == "waiting for another process that decodes images of my pictures\n"


def test_a_store_in_use_is_not_removed(store, own_cache):
    used = Store(own_cache / "images" / "x", SHAPE, about="somewhere")
    (entry,) = entries(own_cache)
    assert not remove(entry)
    del used
    assert remove(entry)
    assert not entries(own_cache)


def test_a_repair_leaves_the_rows_of_others(store, tmp_path):
    other = Store(tmp_path / "store", SHAPE)
    with other.locked():
        other.load()
        (row,) = other.rows([b"new"])
        other.put(row, image(77))
        other.save()
    store.repair(4, image(4))
    third = opened(tmp_path / "store")
    assert third.rows([b"newer", b"new"]).tolist() == [row + 1, row]


def test_a_temporary_store_leaves_nothing(tmp_path):
    store = opened(tmp_path / "store", temporary=True)
    (row,) = store.rows(keys(1))
    store.put(row, image(3))
    store.save()
    assert np.array_equal(store.read(np.array([row]))[0][0], image(3))
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"about"}


def test_leftovers_of_killed_processes_are_removed(store, tmp_path):
    left = tmp_path / "store" / f".index.{'0' * 16}.tmp"
    left.write_bytes(b"half of an index")
    store.save()
    assert not left.exists()


def test_threads_may_write_at_once(tmp_path):
    store = opened(tmp_path / "store")
    rows = store.rows(keys(200))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda row: store.put(row, image(row)), rows))
    images, damaged = store.read(rows)
    assert not damaged
    assert np.array_equal(images, np.stack([image(row) for row in rows]))


def test_sums_are_those_of_the_pixels(store):
    rows = np.array([0, 4, 6])
    images = store.read(rows)[0]
    sums, squares = store.channel_sums(rows)
    assert sums.tolist() == images.long().sum(dim=(0, 2, 3)).tolist()
    assert squares.tolist() == (images.long() ** 2).sum(dim=(0, 2, 3)).tolist()
    assert [part.tolist() for part in channel_sums(images)] == [sums.tolist(), squares.tolist()]


def test_a_full_disk_is_an_error(store, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        store.put(1, image(1))
    assert store.states(np.array([1])).tolist() == [EMPTY]


def test_files_may_be_read_without_preadv(store, monkeypatch):
    monkeypatch.delattr(os, "preadv")
    assert torch.equal(store.read(np.array([2, 0]))[0][1], torch.from_numpy(image(0)))
