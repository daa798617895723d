"""Data sets by name, from files that the tests make in their published layouts."""

import bz2
import csv
import importlib.util
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from vit_patch_env.data.hugging_face_sets import open_hugging_face
from vit_patch_env.data.items import read_item
from vit_patch_env.data.labels import known_labels
from vit_patch_env.data.torch_datasets import from_torch
from vit_patch_env.data.torchvision_sets import TORCHVISION_SETS, open_torchvision


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files made here are not the published ones; nothing is downloaded."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no\nnetwork")

    for name in ("svhn", "flowers102", "stl10", "usps", "mnist", "semeion", "fer2013"):
        module = f"torchvision.datasets.{name}"
        for function in ("download_url", "download_and_extract_archive", "check_integrity"):
            if hasattr(sys.modules[module], function):
                exists = lambda path, md5=None: Path(path).is_file()  # noqa: E731
                patch = exists if function == "check_integrity" else fail
                monkeypatch.setattr(f"{module}.{function}", patch)
    for name in ("eurosat", "oxford_iiit_pet", "dtd", "caltech", "gtsrb", "country211", "clevr"):
        monkeypatch.setattr(f"torchvision.datasets.{name}.download_and_extract_archive", fail)


def picture(value: int, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, value if mode == "L" else (value, value, value))


def save(path: Path, value: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(value, mode=mode).save(path)


def contents(dataset: Any) -> list[tuple[int, Any]]:
    """For each item, the value of its first pixel, to the nearest ten, and its label."""
    items = [read_item(dataset, index, "it") for index in range(len(dataset))]
    return [(round(int(image[0, 0, 0]) / 10) * 10, label) for image, label in items]


def make_eurosat(root: Path) -> None:
    for label, name in enumerate(("Forest", "River")):
        for index in range(2):
            save(root / f"eurosat/2750/{name}/{name}_{index}.jpg", 100 * label + 10 * index)


def make_svhn(root: Path) -> None:
    for split, value in (("train", 50), ("test", 90)):
        images = np.full((32, 32, 3, 3), value, np.uint8)
        savemat(root / f"{split}_32x32.mat", {"X": images, "y": np.array([[1], [10], [1]])})


def make_flowers(root: Path) -> None:
    base = root / "flowers-102"
    for number in range(1, 7):
        save(base / f"jpg/image_{number:05}.jpg", 10 * number)
    savemat(base / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2]])})
    splits = {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]}
    savemat(base / "setid.mat", {name: np.array(ids) for name, ids in splits.items()})


def make_pets(root: Path) -> None:
    """A training split of three breeds, and a test split without the first, which is renumbered."""
    base = root / "oxford-iiit-pet"
    names = ["Abyssinian", "american_bulldog", "Bengal"]
    for index, name in enumerate(names):
        save(base / f"images/{name}_1.jpg", 50 * index)
    lines = [f"{name}_1 {index + 1} 1 1\n" for index, name in enumerate(names)]
    (base / "annotations").mkdir()
    (base / "annotations/trainval.txt").write_text("".join(lines))
    (base / "annotations/test.txt").write_text("".join(lines[:2]))


def make_textures(root: Path) -> None:
    """Each split numbers only its own classes: those of the test split differ."""
    base = root / "dtd/dtd"
    files = {"banded/a.jpg": 10, "dotted/b.jpg": 50, "woven/c.jpg": 90}
    for name, value in files.items():
        save(base / "images" / name, value)
    (base / "labels").mkdir()
    for split, used in {"train": 3, "val": 2, "test": 2}.items():
        lines = [f"{name}\n" for name in list(files)[-used:]]
        (base / f"labels/{split}1.txt").write_text("".join(lines))


def make_caltech(root: Path) -> None:
    """Grey and colour images, and a folder that is no class."""
    base = root / "caltech101/101_ObjectCategories"
    save(base / "BACKGROUND_Google/image_0001.jpg", 0)
    save(base / "ant/image_0001.jpg", 50)
    save(base / "bee/image_0001.jpg", 90, mode="L")


def make_signs(root: Path) -> None:
    base = root / "gtsrb"
    for label in range(2):
        save(base / f"GTSRB/Training/{label:05}/00000_00000.ppm", 50 * label)
    save(base / "GTSRB/Final_Test/Images/00000.ppm", 90)
    with (base / "GT-final_test.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerows([("Filename", "ClassId"), ("00000.ppm", 1)])


def make_stl(root: Path) -> None:
    base = root / "stl10_binary"
    base.mkdir()
    (base / "class_names.txt").write_text("airplane\nbird\n")
    for split, value in (("train", 50), ("test", 90)):
        np.full((2, 3, 96, 96), value, np.uint8).tofile(base / f"{split}_X.bin")
        np.array([1, 2], np.uint8).tofile(base / f"{split}_y.bin")
    (base / "fold_indices.txt").write_text("0 1\n")
    (base / "unlabeled_X.bin").write_bytes(b"")


def make_usps(root: Path) -> None:
    for name, pixel in (("usps.bz2", -1), ("usps.t.bz2", 1)):
        pixels = " ".join(f"{index + 1}:{pixel}" for index in range(256))
        (root / name).write_bytes(bz2.compress(f"1 {pixels}\n3 {pixels}\n".encode()))


def make_mnist(
    root: Path, name: str = "MNIST", prefixes: tuple[str, str] = ("train", "t10k")
) -> None:
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for prefix, value in zip(prefixes, (50, 90), strict=True):
        header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 28, 28))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + bytes([value]) * 2 * 28 * 28)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x02\x00\x01")


def make_emnist(root: Path) -> None:
    make_mnist(root, "EMNIST", ("emnist-balanced-train", "emnist-balanced-test"))


def make_semeion(root: Path) -> None:
    rows = np.zeros((2, 266))
    rows[1, :256] = 1
    rows[[0, 1], [256 + 3, 256 + 4]] = 1
    np.savetxt(root / "semeion.data", rows)


def make_countries(root: Path) -> None:
    for split, value in {"train": 10, "valid": 50, "test": 90}.items():
        for name in ("AD", "ZW"):
            save(root / f"country211/{split}/{name}/1.jpg", value)


def make_imagenette(root: Path) -> None:
    for split, value in {"train": 10, "val": 90}.items():
        for name in ("n01440764", "n02102040"):
            save(root / f"imagenette2/{split}/{name}/{name}_1.JPEG", value)


def make_clevr(root: Path) -> None:
    base = root / "clevr/CLEVR_v1.0"
    (base / "scenes").mkdir(parents=True)
    for split, value in {"train": 10, "val": 50, "test": 90}.items():
        names = [f"CLEVR_{split}_{index}.png" for index in range(2)]
        for name in names:
            save(base / f"images/{split}/{name}", value)
        scenes = [
            {"image_filename": name, "objects": [1] * (3 + i)} for i, name in enumerate(names)
        ]
        (base / f"scenes/CLEVR_{split}_scenes.json").write_text(json.dumps({"scenes": scenes}))


def make_faces(root: Path) -> None:
    """The file whose test split has no labels."""
    (root / "fer2013").mkdir()
    pixels = " ".join(["50"] * 48 * 48)
    (root / "fer2013/train.csv").write_text(f"emotion,pixels\n0,{pixels}\n6,{pixels}\n")
    (root / "fer2013/test.csv").write_text(f"pixels\n{pixels}\n")


TWO = [(50, 0), (50, 1)]
TWO_TEST = [(90, 0), (90, 1)]


@pytest.mark.parametrize(
    ("name", "make", "train", "val", "test"),
    [
        ("EuroSAT", make_eurosat, [(0, 0), (10, 0), (100, 1), (110, 1)], None, None),
        ("SVHN", make_svhn, [(50, 1), (50, 0), (50, 1)], None, [(90, 1), (90, 0), (90, 1)]),
        ("Flowers102", make_flowers, [(10, 0), (20, 1)], [(30, 0), (40, 1)], [(50, 0), (60, 1)]),
        ("OxfordIIITPet", make_pets, [(0, 0), (50, 1), (100, 2)], None, [(0, 0), (50, 1)]),
        ("DTD", make_textures, [(10, 0), (50, 1), (90, 2)], [(50, 0), (90, 1)], [(50, 0), (90, 1)]),
        ("Caltech101", make_caltech, [(50, 0), (90, 1)], None, None),
        ("GTSRB", make_signs, [(0, 0), (50, 1)], None, [(90, 1)]),
        ("STL10", make_stl, TWO, None, TWO_TEST),
        ("USPS", make_usps, [(0, 0), (0, 2)], None, [(260, 0), (260, 2)]),
        ("MNIST", make_mnist, TWO, None, TWO_TEST),
        ("EMNIST", make_emnist, TWO, None, TWO_TEST),
        ("SEMEION", make_semeion, [(0, 3), (260, 4)], None, None),
        ("Country211", make_countries, [(10, 0), (10, 1)], TWO, TWO_TEST),
        ("Imagenette", make_imagenette, [(10, 0), (10, 1)], None, TWO_TEST),
        ("CLEVRClassification", make_clevr, [(10, 3), (10, 4)], None, [(50, 3), (50, 4)]),
        ("FER2013", make_faces, [(50, 0), (50, 6)], None, None),
    ],
)
def test_torchvisions_sets_are_read_from_their_published_files(
    name, make, train, val, test, tmp_path
):
    make(tmp_path)
    sets = open_torchvision(name.upper(), tmp_path)
    read = [None if part is None else contents(part) for part in (sets.train, sets.val, sets.test)]
    assert read == [train, val, test]
    assert known_labels(sets.train, "the training set") == [label for _, label in train]
    assert sets.flip == (name not in ("SVHN", "GTSRB", "USPS", "MNIST", "EMNIST", "SEMEION"))


@pytest.mark.parametrize(
    ("name", "make", "classes", "note"),
    [
        ("EuroSAT", make_eurosat, ("Forest", "River"), None),
        ("OxfordIIITPet", make_pets, ("Abyssinian", "American Bulldog", "Bengal"), None),
        ("Caltech101", make_caltech, ("ant", "bee"), None),
        ("STL10", make_stl, ("airplane", "bird"), None),
        ("SVHN", make_svhn, None, None),
        ("Imagenette", make_imagenette, ("tench, Tinca tinca", "English springer, English springer "
         "spaniel"), "Imagenette: its validation split is the test split"),
        ("CLEVRClassification", make_clevr, None, "its test split has no labels and is left out"),
        ("FER2013", make_faces, None, "its test split has no labels and is left out"),
        ("EMNIST", make_emnist, None, "EMNIST: split is 'balanced'"),
    ],
)  # fmt: skip
def test_sets_have_their_class_names_and_say_what_was_chosen(name, make, classes, note, tmp_path):
    make(tmp_path)
    sets = open_torchvision(name.lower(), tmp_path)
    if name != "EMNIST":  # of 47 classes
        assert sets.classes == classes
    assert (note is None) == (not sets.notes)
    assert note is None or note in " ".join(sets.notes)


def test_classes_that_each_split_numbers_for_itself_are_matched_by_name(tmp_path):
    make_textures(tmp_path)
    sets = open_torchvision("dtd", tmp_path)
    data = from_torch(_repeated(sets.train), _repeated(sets.test), image_size=6)
    assert data.classes == ("banded", "dotted", "woven")
    values = (data.test.images[:, 0, 0, 0].double() / 10).round() * 10
    assert set(zip(values.tolist(), data.test.labels.tolist(), strict=True)) == {(50, 1), (90, 2)}


def _repeated(dataset: Any) -> Any:
    return torch.utils.data.Subset(dataset, list(range(len(dataset))) * 20)


def test_grey_and_colour_pictures_of_a_set_train_together(tmp_path):
    make_caltech(tmp_path)
    data = from_torch(_repeated(open_torchvision("caltech101", tmp_path).train), image_size=6)
    assert data.train.images.shape[1:] == (3, 6, 6)


@pytest.mark.parametrize("name", ["CocoDetection", "Kinetics", "VOCSegmentation", "", "__init__"])
def test_names_of_other_sets_are_refused_with_those_that_work(name, tmp_path):
    with pytest.raises(ValueError, match=f"one of CIFAR10, .*, USPS, got '{name}'"):
        open_torchvision(name, tmp_path)


def test_every_name_is_one_of_torchvisions():
    assert all(hasattr(datasets, name) for name in TORCHVISION_SETS)


@pytest.mark.parametrize("name", ["EuroSAT", "SVHN", "DTD", "USPS", "MNIST", "FER2013"])
def test_files_that_are_missing_are_named_in_one_line(name, tmp_path):
    expected = f"expected the files of {name} in {re.escape(str(tmp_path))} or a network"
    with pytest.raises(ValueError, match=expected) as refusal:
        open_torchvision(name, tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_damaged_file_is_named_in_one_line(tmp_path):
    make_svhn(tmp_path)
    (tmp_path / "train_32x32.mat").write_bytes(b"no matrix")
    with pytest.raises(ValueError, match="expected the files of SVHN in") as refusal:
        open_torchvision("svhn", tmp_path)
    assert "\n" not in str(refusal.value)


needs_hf = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="needs the extra hf"
)


@pytest.fixture
def hf() -> Iterator[Any]:
    """The library without progress bars."""
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("needs the extra hf")
    import datasets as library

    library.disable_progress_bars()
    yield library
    library.enable_progress_bars()


def png(value: int) -> bytes:
    file = io.BytesIO()
    picture(value).save(file, "PNG")
    return file.getvalue()


def hf_split(hf, values, labels, names=("cat", "dog"), columns=("image", "label")):
    features = hf.Features(
        {
            columns[0]: hf.Image(),
            columns[1]: hf.ClassLabel(names=list(names)),
            "id": hf.Value("int64"),
        }
    )
    rows = {
        columns[0]: [picture(value) for value in values],
        columns[1]: labels,
        "id": list(range(len(values))),
    }
    return hf.Dataset.from_dict(rows, features=features)


@pytest.fixture
def splits(hf):
    return {
        "train": hf_split(hf, (50, 50), [0, 1]),
        "validation": hf_split(hf, (70, 70), [0, 1]),
        "test": hf_split(hf, (90, 90), [0, 1]),
    }


def assert_all_three(sets: Any) -> None:
    assert contents(sets.train) == TWO
    assert contents(sets.val) == [(70, 0), (70, 1)]
    assert contents(sets.test) == TWO_TEST
    assert sets.classes == ("cat", "dog")
    assert not sets.notes


def test_a_saved_hugging_face_data_set_is_opened(hf, splits, tmp_path):
    hf.DatasetDict(splits).save_to_disk(tmp_path / "all")
    assert_all_three(open_hugging_face(tmp_path / "all"))
    splits["test"].save_to_disk(tmp_path / "one")
    sets = open_hugging_face(str(tmp_path / "one"))
    assert contents(sets.train) == TWO_TEST
    assert sets.val is None
    assert sets.test is None


@pytest.mark.parametrize(
    "names",
    [
        "{}-00000-of-00001.parquet",
        "{}.parquet",
        "data/{}-00000-of-00001.parquet",
        "{}/0000.parquet",
    ],
)
def test_parquet_files_are_found_by_their_split(names, splits, tmp_path):
    for split, part in splits.items():
        path = tmp_path / names.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(path)
    assert_all_three(open_hugging_face(tmp_path))


def test_the_parts_of_a_split_are_read_in_order(hf, tmp_path):
    for index, values in enumerate([(10, 20), (30, 40)]):
        part = hf_split(hf, values, [0, 1])
        part.to_parquet(tmp_path / f"train-{index:05}-of-00002.parquet")
    assert contents(open_hugging_face(tmp_path).train) == [(10, 0), (20, 1), (30, 0), (40, 1)]


@pytest.mark.parametrize("as_bytes", [True, False])
def test_one_parquet_file_of_another_program_is_read(as_bytes, hf, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    images = [png(value) for value in (50, 90)]
    cells = images if as_bytes else [{"bytes": image, "path": "a.png"} for image in images]
    table = pa.table({"img": cells, "label": ["dog", "cat"], "size": [6, 6]})
    parquet.write_table(table, tmp_path / "pets.parquet")
    assert contents(open_hugging_face(tmp_path / "pets.parquet").train) == [
        (50, "dog"),
        (90, "cat"),
    ]


def test_columns_are_found_by_their_type_if_not_by_their_name(hf, tmp_path):
    hf_split(hf, (50, 50), [0, 1], columns=("photo", "species")).save_to_disk(tmp_path / "saved")
    sets = open_hugging_face(tmp_path / "saved")
    assert contents(sets.train) == TWO
    assert sets.classes == ("cat", "dog")


def test_a_saved_format_does_not_change_the_images(hf, splits, tmp_path):
    splits["train"].with_format("torch").save_to_disk(tmp_path / "saved")
    assert contents(open_hugging_face(tmp_path / "saved").train) == TWO


def test_labels_of_a_hugging_face_data_set_are_known_without_its_images(splits):
    dataset = splits["train"].select([1, 0])
    assert known_labels(dataset, "the training set") == [1, 0]


def test_from_torch_takes_hugging_face_data_sets_and_matches_names(hf):
    train = hf_split(hf, (50, 90) * 20, [0, 1] * 20)
    test = hf_split(hf, (90, 90), [0, 0], names=("dog",))
    data = from_torch(train, test, image_size=6)
    assert data.classes == ("cat", "dog")
    assert data.test.labels.tolist() == [1, 1]


def test_splits_that_are_not_used_are_said(hf, splits, tmp_path):
    splits["test"] = hf_split(hf, (90, 90), [-1, -1])  # as hidden labels are published
    splits["extra"] = splits["train"]
    hf.DatasetDict(splits).save_to_disk(tmp_path / "pets")
    sets = open_hugging_face(tmp_path / "pets")
    assert sets.notes == (
        "pets: its test split has no labels and is left out",
        "pets: its split extra is left out",
        "pets: its validation split is the test split",
    )
    assert contents(sets.test) == [(70, 0), (70, 1)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "expected a folder that save_to_disk has written, or Parquet files, got none in"),
        (["a.parquet", "b.parquet"], r"named by their split, such as .*, got .*a\.parquet"),
        (["x/train.parquet", "y/train.parquet"], r"split train in one folder, got .*x and .*y"),
        (["train.parquet", "training.parquet"], "expected one train split in .*, got several"),
        (
            ["val.parquet", "test.parquet"],
            "expected a train split with labels in .*, got test, val",
        ),
    ],
)
def test_folders_that_are_not_clear_are_refused(files, message, splits, tmp_path):
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        splits["train"].to_parquet(path)
    with pytest.raises(ValueError, match=message):
        open_hugging_face(tmp_path)


def test_columns_that_are_not_there_are_named(hf, tmp_path):
    hf.Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"a column of image, img, .*, got text, label"):
        open_hugging_face(tmp_path)


def test_damaged_parquet_files_are_refused_in_one_line(hf, tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="that can be read in") as refusal:
        open_hugging_face(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("path", ["cifar10", "someone/pets"])
def test_a_name_that_is_no_local_path_is_refused_and_nothing_downloaded(path):
    with pytest.raises(ValueError, match=f"as nothing is downloaded, got {path}: no such file"):
        open_hugging_face(path)


def test_the_extra_is_named_if_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"needs the extra hf, pip install 'vit-patch-env\[hf\]'"):
        open_hugging_face(tmp_path)
