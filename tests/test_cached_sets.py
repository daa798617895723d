"""torchvision's and Hugging Face's sets of pictures are decoded once, as folders are."""

import importlib.util
import io

import numpy as np
import pytest
import torch
from PIL import Image

from vit_patch_env import from_torch, load_dataset
from vit_patch_env.data.dataset_source import DatasetImages
from vit_patch_env.data.picture_source import StoredImages
from vit_patch_env.system.cache import IMAGES, cache_dir, entries

CLASSES = ("Forest", "River")
N = 40


def pictures():
    """Pictures of two classes in turn, each of its own pixels."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(N, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


def as_png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def eurosat(root):
    """The argument of load_dataset for a set of files."""
    for index, image in enumerate(pictures()):
        name = CLASSES[index % 2]
        folder = root / "eurosat" / "2750" / name
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{name}_{index:02}.jpg", quality=100, subsampling=0)
    return {"name": "torchvision:eurosat", "data_dir": root}


def parquet(root, broken=()):
    """The argument of load_dataset for a set of rows."""
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("needs the extra hf")
    import datasets

    rows = [
        {
            "image": {"bytes": b"no image" if index in broken else as_png(image), "path": None},
            "label": index % 2,
        }
        for index, image in enumerate(pictures())
    ]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    table = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    table.to_parquet(root / "train.parquet")
    return {"name": f"hf:{root}"}


def splits(data):
    return [data.train, data.val, data.test]


@pytest.mark.parametrize("make", [eurosat, parquet])
def test_pictures_are_decoded_once_and_are_the_same_streamed(make, tmp_path, own_cache, decoded):
    arguments = make(tmp_path) | {"image_size": 6}
    data = load_dataset(**arguments)
    assert data.classes == CLASSES
    assert len(decoded) == N
    streamed = load_dataset(**arguments, images="stream")
    assert len(decoded) == N
    assert isinstance(streamed.train.images, StoredImages)
    expected = {np.asarray(image).transpose(2, 0, 1).tobytes() for image in pictures()}
    for one, other in zip(splits(data), splits(streamed), strict=True):
        assert torch.equal(one.images, other.images[:])
        assert torch.equal(one.labels, other.labels)
        if make is parquet:
            assert {image.numpy().tobytes() for image in one.images} <= expected
    (entry,) = (entry for entry in entries(cache_dir()) if entry.folder.parent.name == IMAGES)
    assert entry.about.startswith(str(tmp_path if make is eurosat else cache_dir()))


@pytest.mark.parametrize("make", [eurosat, parquet])
def test_only_what_is_used_is_decoded(make, tmp_path, decoded):
    load_dataset(**make(tmp_path), image_size=6, train_fraction=0.5, val_fraction=0.2)
    assert len(decoded) == 24  # a fifth of 40, and half of the rest


def test_a_bad_file_of_torchvisions_is_refused_or_left_out_by_name(tmp_path):
    arguments = eurosat(tmp_path) | {"image_size": 6}
    # The first one, of which the label is looked at, and one that is gone.
    first, gone = sorted((tmp_path / "eurosat" / "2750" / "Forest").iterdir())[:2]
    first.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"readable image, got .*Forest_00\.jpg: not a picture"):
        load_dataset(**arguments)
    gone.write_bytes(b"")
    with pytest.warns(UserWarning, match=r"2 of 40 images .* skipped: .*_00\.jpg, .*_02\.jpg$"):
        data = load_dataset(**arguments, skip_corrupt=True)
    assert sum(len(split.labels) for split in splits(data)) == N - 2


def test_a_bad_row_of_a_hugging_face_set_is_refused_or_left_out_by_number(tmp_path):
    arguments = parquet(tmp_path, broken=(0, 7)) | {"image_size": 6}
    with pytest.raises(ValueError, match=r"got item 0 of the training set: not a picture in a"):
        load_dataset(**arguments)
    with pytest.warns(UserWarning, match="skipped: item 0 of .* set, item 7 of the training set$"):
        data = load_dataset(**arguments, skip_corrupt=True)
    assert sum(len(split.labels) for split in splits(data)) == N - 2


def test_rows_that_name_files_are_read_from_these_and_nothing_is_fetched(tmp_path, decoded):
    datasets = pytest.importorskip("datasets", reason="needs the extra hf")
    paths = []
    for index, image in enumerate(pictures()):
        paths.append(str(tmp_path / f"{index}.png"))
        image.save(paths[-1])
    paths[3] = "https://example.org/3.png"
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    rows = datasets.Dataset.from_list(
        [{"image": {"bytes": None, "path": path}, "label": i % 2} for i, path in enumerate(paths)],
        features=features,
    )
    with pytest.warns(UserWarning, match="1 of 40 images .* skipped: item 3 of the training set"):
        data = from_torch(rows, image_size=6, skip_corrupt=True)
    assert sum(len(split.labels) for split in splits(data)) == N - 1
    n_decoded = len(decoded)
    Image.new("RGB", (6, 6)).save(paths[4])
    with pytest.warns(UserWarning, match="1 of 40 images"):
        from_torch(rows, image_size=6, skip_corrupt=True)
    assert len(decoded) == n_decoded + 2  # the one that changed, and the one that is missing


def test_rows_with_a_transform_are_read_in_every_batch(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra hf")
    parquet(tmp_path)
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "train.parquet"),
                                 split="train", cache_dir=str(tmp_path / "c"))  # fmt: skip
    rows.set_transform(lambda batch: batch)
    data = from_torch(rows, image_size=6, images="stream")
    assert isinstance(data.train.images, DatasetImages)


@pytest.mark.parametrize("make", [eurosat, parquet])
def test_duplicates_of_test_images_are_counted(make, tmp_path):
    from torch.utils.data import Subset

    if make is eurosat:
        from torchvision.datasets import EuroSAT

        eurosat(tmp_path)
        whole = EuroSAT(tmp_path)
    else:
        parquet(tmp_path)
        from vit_patch_env.data.hugging_face_sets import open_hugging_face

        whole = open_hugging_face(tmp_path).train
    train, test = Subset(whole, range(32)), Subset(whole, range(30, 40))
    data = from_torch(train, test, image_size=6)
    (note,) = (note for note in data.notes if "also training" in note)
    assert note.startswith("2 of 10 test images are also training images")


def grey_rows(root, make=lambda image: image):
    datasets = pytest.importorskip("datasets", reason="needs the extra hf")
    images = [make(image.convert("L")) for image in pictures()]
    paths = []
    for index, image in enumerate(images):
        paths.append(f"{index}.png")
        image.save(root / paths[-1])
    labels = [index % 2 for index in range(N)]
    rows = datasets.Dataset.from_dict({"image": paths, "label": labels})
    return rows.cast_column("image", datasets.Image())


@pytest.mark.parametrize("images", ["memory", "stream"])
def test_rows_that_are_all_grey_stay_grey(images, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra hf")
    cells = [{"bytes": as_png(image.convert("L")), "path": None} for image in pictures()]
    columns = {"image": cells, "label": [index % 2 for index in range(N)]}
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    data = from_torch(rows, image_size=6, images=images)
    assert data.train.images[:].shape[1:] == (1, 6, 6)
    assert len(data.channel_mean) == 1
    expected = {np.asarray(image.convert("L")).tobytes() for image in pictures()}
    assert {image.numpy().tobytes() for image in data.train.images[:]} <= expected


def test_relative_files_are_decoded_again_when_they_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = grey_rows(tmp_path)
    before = from_torch(rows, image_size=6)
    grey_rows(tmp_path, make=lambda image: Image.eval(image, lambda value: 255 - value))
    after = from_torch(rows, image_size=6)
    assert torch.equal(after.train.images, 255 - before.train.images)


def test_an_empty_part_is_nothing(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra hf")
    from torch.utils.data import ConcatDataset

    parquet(tmp_path)
    rows = datasets.Dataset.from_parquet(str(tmp_path / "train.parquet"), cache_dir=str(tmp_path))
    data = from_torch(ConcatDataset([rows, rows.select([])]), image_size=6)
    assert sum(len(split.labels) for split in splits(data)) == N
