import os
import socket
from collections import Counter
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from vit_patch_env.data import listing
from vit_patch_env.data.layouts import check_layout, find_layout
from vit_patch_env.data.split_names import names_of_splits, split_words

SUFFIXES = {".jpg", ".png"}

TWO = {"cat": 2, "dog": 1}


def below(*folders, classes=TWO):
    """A tree with images of these classes in each of the folders."""
    return {f"{folder}/{name}": n for folder in folders for name, n in classes.items()}


def make(root, tree):
    """A folder for each entry with a number of images, or a file for each with text."""
    root.mkdir(exist_ok=True)
    for name, content in tree.items():
        path = root / name
        if isinstance(content, str):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        else:
            path.mkdir(parents=True, exist_ok=True)
            for index in range(content):
                (path / f"{index}.jpg").write_text(f"{path}{index}")
    return root


def summary(root):
    """By split, the folders of images with the class of each, and their number."""
    layout = find_layout(root, SUFFIXES)
    found = {}
    for split in ("train", "val", "test"):
        part = getattr(layout, split)
        if part is not None:
            assert len(part.paths) == len(part.labels)
            assert part.labels.dtype == "int64"
            assert list(part.labels) == sorted(part.labels)
            found[split] = Counter(
                (os.path.relpath(Path(path).parent, root), layout.classes[label])
                for path, label in zip(part.paths, part.labels, strict=True)
            )
    return found


def of(folder, classes=TWO):
    start = f"{folder}/" if folder else ""
    return {(f"{start}{name}", name): n for name, n in classes.items()}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (TWO, {"train": of("")}),
        (below("train", "test"), {"train": of("train"), "test": of("test")}),
        (
            below("train", "val", "test"),
            {"train": of("train"), "val": of("val"), "test": of("test")},
        ),
        (below("train", "val"), {"train": of("train"), "test": of("val")}),
        (below("train", "valid"), {"train": of("train"), "test": of("valid")}),
        (below("train", "validation"), {"train": of("train"), "test": of("validation")}),
        (below("Train", "Test"), {"train": of("Train"), "test": of("Test")}),
        (below("TRAIN", "VALID", "TEST"), {
            "train": of("TRAIN"), "val": of("VALID"), "test": of("TEST")}),
        (below("training", "testing"), {"train": of("training"), "test": of("testing")}),
        (below("Training", "Testing"), {"train": of("Training"), "test": of("Testing")}),
        (below("training_set", "test_set"), {"train": of("training_set"), "test": of("test_set")}),
        (below("TrainingSet", "testset"), {"train": of("TrainingSet"), "test": of("testset")}),
        (below("train_images", "val-images"), {
            "train": of("train_images"), "test": of("val-images")}),
        (below("seg_train", "seg_test"), {"train": of("seg_train"), "test": of("seg_test")}),
        (
            below("seg_train/seg_train", "seg_test/seg_test") | {"seg_pred/seg_pred": 3},
            {"train": of("seg_train/seg_train"), "test": of("seg_test/seg_test")},
        ),
        (below("train/train", "test/images"), {
            "train": of("train/train"), "test": of("test/images")}),
        (below("photos/photos"), {"train": of("photos/photos")}),
        (below("my/my/train", "my/my/val"), {"train": of("my/my/train"), "test": of("my/my/val")}),
        (
            below("my/train", "my/test") | {"__MACOSX/my/train/cat": 3, ".git/x": 2},
            {"train": of("my/train"), "test": of("my/test")},
        ),
        (below("images") | {"annotations/1.xml": ""}, {"train": of("images")}),
        (below("train", "test") | {"single_prediction": 2}, {
            "train": of("train"), "test": of("test")}),
        (below("Training", "Test") | {"test-multiple_fruits": 2}, {
            "train": of("Training"), "test": of("Test")}),
        # The chest X-ray data set repeats itself.
        (
            below("x/train", "x/val", "x/test", "x/x/train", "x/x/val", "x/x/test"),
            {"train": of("x/train"), "val": of("x/val"), "test": of("x/test")},
        ),
        (below("train"), {"train": of("train")}),
        (below("test"), {"train": of("test")}),
        (below("val"), {"train": of("val")}),
        (below("Training_set"), {"train": of("Training_set")}),
        (below("test/train", "test/test"), {"train": of("test/train"), "test": of("test/test")}),
        # Classes that are called like splits.
        ({"train": 3, "car": 1, "ship": 1}, {"train": of("", {"train": 3, "car": 1, "ship": 1})}),
        ({"train": 3, "test": 1, "car": 1}, {"train": of("", {"train": 3, "test": 1, "car": 1})}),
        ({"train": 3, "test": 1, "car/new": 1}, {
            "train": {("train", "train"): 3, ("test", "test"): 1, ("car/new", "car"): 1}}),
        ({"bullet_train": 3, "test_tube": 1}, {
            "train": of("", {"bullet_train": 3, "test_tube": 1})}),
        (
            below("train", "test", classes={"train": 2, "test": 1, "car": 1}),
            {
                "train": of("train", {"train": 2, "test": 1, "car": 1}),
                "test": of("test", {"train": 2, "test": 1, "car": 1}),
            },
        ),
        (below("train", "test", classes={"train": 2, "car": 1}), {
            "train": of("train", {"train": 2, "car": 1}),
            "test": of("test", {"train": 2, "car": 1})}),
        # Folders within a class, and what else lies about.
        ({"cat/a/b": 2, "cat": 1, "dog/c": 1}, {
            "train": {("cat", "cat"): 1, ("cat/a/b", "cat"): 2, ("dog/c", "dog"): 1}}),
        (TWO | {"cat/.ipynb_checkpoints": 2, "__pycache__": 1, "empty": 0, "cat/._0.jpg": ""}, {
            "train": of("")}),
        (TWO | {"cat/Thumbs.db": "", "dog/notes.txt": "", "cat/x.JPG": "", "LICENSE": ""}, {
            "train": of("", {"cat": 3, "dog": 1})}),
    ],
)  # fmt: skip
def test_the_folders_of_a_layout_become_its_splits(tree, expected, tmp_path):
    root = make(tmp_path / "data", tree)
    check_layout(root, SUFFIXES)
    assert summary(root) == expected


@pytest.mark.parametrize(
    ("tree", "notes"),
    [
        (TWO, ()),
        (below("train", "test"), ()),
        (
            below("train", "val"),
            (
                "training images: train (3 images of 2 classes); "
                "test images: val (3 images of 2 classes), as there is no test split; "
                "validation images are split off the training images",
            ),
        ),
        (
            below("train", "val", "test"),
            (
                "training images: train (3 images of 2 classes); "
                "validation images: val (3 images of 2 classes); "
                "test images: test (3 images of 2 classes)",
            ),
        ),
        (
            below("a/Train", "a/Test") | {"a/seg_pred": 2, "__MACOSX": 1},
            (
                "training images: a/Train (3 images of 2 classes); "
                "test images: a/Test (3 images of 2 classes)",
                "left out: 1 other folder (seg_pred), 1 system folder",
            ),
        ),
        (
            below("train", classes={"a": 1200, "b": 1}),
            (
                "all images: train (1,201 images of 2 classes); test and validation images are "
                "split off them",
            ),
        ),
        (
            {"train": 2, "car": 1},
            (
                "all images: data (3 images of 2 classes); test and validation images are split "
                "off them",
                "taken for classes, as they hold images themselves: train",
            ),
        ),
        (
            below("a", "b"),
            (
                "all images: data (6 images of 2 classes); test and validation images are split "
                "off them",
                "taken for classes, with all images in the folders within them: a, b",
            ),
        ),
        (
            below("test/train", "test/test") | {"more/a.txt": ""},
            (
                "training images: test/train (3 images of 2 classes); "
                "test images: test/test (3 images of 2 classes)",
                "left out: 1 other folder (more)",
            ),
        ),
        (
            TWO | {"cat/a.txt": "", "dog/b.TXT": "", "dog/c": "", "0.jpg": "", ".x": "", "e": 0},
            (
                "left out: 1 empty folder (e), 3 files that are no images (.txt, no suffix), "
                "1 hidden file, 1 image outside class folders",
            ),
        ),
    ],
)
def test_what_was_guessed_and_left_out_is_said_with_counts(tree, notes, tmp_path):
    assert find_layout(make(tmp_path / "data", tree), SUFFIXES).notes == notes


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "expected at least two class folders in '{root}', got none"),
        ({"train/cat": 0}, "expected at least two class folders in '{root}/train', got cat"),
        ({"cat": 2}, "expected at least two class folders in '{root}', got cat"),
        ({"cat": 2, "dog": 0}, "expected at least two class folders in '{root}', got cat"),
        (
            {"train": 2, "test": 2},
            "expected at least two class folders in '{root}/train', got none, and 2 images "
            "outside class folders",
        ),
        (
            {"seg_train": 2, "seg_test": 2},
            "expected at least two class folders in '{root}/seg_train', got none, and 2 images "
            "outside class folders",
        ),
        (
            below("train") | {"test": 1},
            "expected at least two class folders in '{root}/test', got none, and 1 image outside "
            "class folders",
        ),
        (below("train") | {"test": 0}, "expected at least two class folders in '{root}/test'"),
        (
            below("train") | {"test/unknown": 2},
            "expected at least two class folders in '{root}/test', got unknown",
        ),
        (
            below("train", "training"),
            "expected one folder of training images in '{root}', got 2 that could be it: train, "
            "training; rename or move all but one",
        ),
        (
            below("train", "val", "valid"),
            "expected one folder of validation images in '{root}', got 2 that could be it: val, "
            "valid; rename or move all but one",
        ),
        (
            below("trainA", "trainB", "testA", "testB"),
            "expected one folder of test images in '{root}', got 2 that could be it: testA, testB",
        ),
        (
            below("train", "test") | TWO,
            "expected either splits or classes in '{root}', got test, train, which could be "
            "splits, beside cat, dog, as if all were classes; rename or move some",
        ),
        (
            below("train", classes={"red": 1, "blue": 1}) | {"car/red": 1},
            "expected either splits or classes in '{root}', got train, which could be splits, "
            "beside car, as if all were classes",
        ),
        (below("val", "test"), "expected training images in '{root}', got only"),
        (
            below("train/train", "train/test", "test/train", "test/test"),
            "expected <data_dir>/train/<class>/* and <data_dir>/test/<class>/*, got test, train "
            "among the classes of '{root}/",
        ),
        (
            {"cat/train": 1, "cat/test": 1, "dog/train": 1, "dog/test": 1},
            "expected <data_dir>/train/<class>/* and <data_dir>/test/<class>/*, or class folders, "
            "got test, train in the class folder '{root}/cat'",
        ),
        (
            below("a/train", "a/test", "b/train", "b/test"),
            "expected <data_dir>/train/<class>/* and <data_dir>/test/<class>/*, or class folders, "
            "got test, train in the class folder '{root}/a'",
        ),
        (
            {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/cow": 1},
            "expected the same classes in '{root}/train' and '{root}/test', got cow, dog in only "
            "one of them",
        ),
        (
            below("train", "val", "test") | {"val/cow": 1},
            "expected the same classes in '{root}/train' and '{root}/val', got cow in only one",
        ),
        (
            TWO | {"cow/1.heic": "", "cow/2.heic": ""},
            "expected images in every class folder of '{root}', got none in cow, but 2 files that "
            "are no images (.heic)",
        ),
        ({"labels.csv": "a,b\n", "0.jpg": ""}, "expected the columns file and label in the first"),
    ],
)
def test_what_cannot_be_used_or_is_ambiguous_is_refused(tree, message, tmp_path):
    root = make(tmp_path / "data", tree)
    with pytest.raises(ValueError, match="expected") as error:
        find_layout(root, SUFFIXES)
    assert str(error.value).startswith(message.format(root=root))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tree", "refused"),
    [
        ({"train/cat": 0}, True),
        (below("train", "training"), True),
        (below("train") | {"test": 1}, True),
        (TWO | {"cow/1.heic": ""}, False),
        (TWO | {"labels.csv": "file,label\nmissing.jpg,cat\n"}, False),
    ],
)
def test_checking_a_layout_refuses_what_names_of_folders_say(tree, refused, tmp_path):
    root = make(tmp_path / "data", tree)
    if refused:
        with pytest.raises(ValueError, match="expected"):
            check_layout(root, SUFFIXES)
    else:
        check_layout(root, SUFFIXES)


@pytest.mark.parametrize("root", [".", "../data", "linked"])
@pytest.mark.parametrize(
    "tree",
    [
        below("train", "test"),
        below("my/train", "my/test"),
        {"a.jpg": "", "b.jpg": "", "my/labels.csv": "file,label\na.jpg,cat\n./b,dog\n"},
    ],
)
def test_paths_are_joined_to_the_root_as_it_is_given(root, tree, tmp_path, monkeypatch):
    data = make(tmp_path / "data", tree)
    if "a.jpg" in tree:
        for name in ("a.jpg", "b.jpg"):
            (data / name).rename(data / "my" / name)
    (data / "linked").symlink_to(".")
    monkeypatch.chdir(data)
    layout = find_layout(Path(root), SUFFIXES)
    for path in layout.train.paths:
        assert Path(path).is_file()
        assert path.startswith(root)
    assert len(layout.classes) == 2


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be a folder of images, got .*no such folder"):
        check_layout(tmp_path / "nowhere", SUFFIXES)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"must be a folder of images, got .*: a file"):
        check_layout(tmp_path / "file", SUFFIXES)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    root = make(tmp_path / "data", TWO)
    scandir = os.scandir

    def refusing(path):  # root may read any folder
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", refusing)
    with pytest.raises(ValueError, match=r"folders that can be read, got .*/dog': Permission den"):
        find_layout(root, SUFFIXES)


def test_images_come_in_the_order_of_torchvision(tmp_path):
    names = ("b", "a", "a-b/10", "a-b/9", "a/b/z", "a/b", "B", "a.b", "ä", "a/Z", "a/é")
    root = make(tmp_path / "data", dict.fromkeys(names, 2))
    make(root, {"a/x.PNG": "", "a/X.jpg": ""})
    expected = ImageFolder(str(root))
    train = find_layout(root, SUFFIXES).train
    assert list(zip(train.paths, train.labels.tolist(), strict=True)) == expected.samples


def test_names_of_any_bytes_are_kept_in_paths_and_escaped_elsewhere(tmp_path):
    root = tmp_path / "data"
    names = [b"caf\xe9", b"two\nlines", b"\x1b[31mred", "ä".encode(), b"x" * 250]
    for name in names:
        (root / os.fsdecode(name)).mkdir(parents=True)
        (root / os.fsdecode(name) / os.fsdecode(b"\xff\n\x1b.jpg")).write_text("")
    (root / os.fsdecode(b"empty\x1b\xff")).mkdir()
    layout = find_layout(root, SUFFIXES)
    assert all(Path(path).is_file() for path in layout.train.paths)
    assert len(layout.train.paths) == len(names)
    assert {"caf\\xe9", "two\\nlines", "\\x1b[31mred", "ä"} < set(layout.classes)
    assert layout.notes == ("left out: 1 empty folder (empty\\x1b\\xff)",)
    (root / os.fsdecode(b"no\x1b\n") / "x").mkdir(parents=True)
    (root / os.fsdecode(b"no\x1b\n") / os.fsdecode(b"a.\xff\x1b")).write_text("")
    with pytest.raises(ValueError, match="got none in ") as error:
        find_layout(root, SUFFIXES)
    assert str(error.value).isprintable()


def test_links_neither_hang_nor_multiply_images(tmp_path):
    root = make(tmp_path / "data", below("train", "test"))
    (root / "self").symlink_to(".")
    (root / "train" / "cat" / "self").symlink_to(".")
    (root / "train" / "cat" / "up").symlink_to("..")
    (root / "train" / "dog" / "top").symlink_to(root)
    (root / "train" / "again").symlink_to("dog")
    (root / "train" / "cat" / "lost.jpg").symlink_to("nowhere")
    (root / "train" / "cat" / "loop.jpg").symlink_to("loop.jpg")
    check_layout(root, SUFFIXES)
    layout = find_layout(root, SUFFIXES)
    assert layout.classes == ("cat", "dog")
    assert len(layout.train.paths) == len(layout.test.paths) == 3
    assert layout.notes == (
        "left out: 2 broken links, 5 folders reached twice by links (again, self, top, up)",
    )


def test_links_are_followed(tmp_path):
    store = make(tmp_path / "store", {"cats": 2, "more": 1, "one": 1})
    root = make(tmp_path / "data", {"dog": 1})
    (root / "cat").symlink_to(store / "cats")
    (root / "dog" / "more").symlink_to(store / "more")
    (root / "dog" / "linked.jpg").symlink_to(store / "one" / "0.jpg")
    assert summary(root)["train"] == {("cat", "cat"): 2, ("dog", "dog"): 2, ("dog/more", "dog"): 1}


def test_a_folder_keeps_its_own_name_where_links_lead_to_it(tmp_path):
    root = make(tmp_path / "data", {"cat/z": 2, "dog": 1})
    (root / "cat" / "a").symlink_to("z")
    assert summary(root)["train"] == {("cat/z", "cat"): 2, ("dog", "dog"): 1}


def test_pipes_sockets_and_devices_are_counted_but_not_opened(tmp_path):
    root = make(tmp_path / "data", TWO)
    os.mkfifo(root / "cat" / "pipe.jpg")
    (root / "cat" / "device.jpg").symlink_to("/dev/zero")
    (root / "cat" / "linked.jpg").symlink_to("pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(root / "cat" / "socket.jpg"))
        layout = find_layout(root, SUFFIXES)
    assert len(layout.train.paths) == 3
    assert layout.notes == ("left out: 1 device, 2 named pipes, 1 socket",)


PICTURES = {"a.jpg": "", "b.jpg": "", "sub/c.jpg": ""}


@pytest.mark.parametrize(
    "table",
    [
        "file,label\na.jpg,cat\nb.jpg,dog\nsub/c.jpg,cat\n",
        "label,file\ncat,a.jpg\ndog,b.jpg\ncat,sub/c.jpg\n",
        "\ufeffFilename;Class\na.jpg;cat\nb.jpg;dog\nsub/c.jpg;cat\n",
        "image\ttarget\textra\na.jpg\tcat\t1\nb.jpg\tdog\t2\nsub\\c.jpg\tcat\t3\n",
        '"id", "label"\r\n"a", "cat"\r\n"b", "dog"\r\n"sub/c", "cat"\r\n\r\n',
        "path,label\n./sub/../a.jpg,cat\nb.jpg,dog\nb.jpg,dog\nsub/c.jpg,cat\n",
    ],
)
def test_a_file_of_labels_is_read(table, tmp_path):
    root = make(tmp_path / "data", PICTURES | {"labels.csv": table})
    layout = find_layout(root, SUFFIXES)
    assert layout.classes == ("cat", "dog")
    assert [os.path.relpath(path, root) for path in layout.train.paths] == [
        "a.jpg", "sub/c.jpg", "b.jpg",
    ]  # fmt: skip
    assert layout.train.labels.tolist() == [0, 0, 1]
    assert layout.test is None
    assert layout.notes[0].startswith("all images: labels.csv (3 images of 2 classes); ")


def test_numbers_in_a_file_of_labels_are_ordered_as_numbers(tmp_path):
    table = "file,label\na.jpg,10\nb.jpg,9\nsub/c.jpg,0\n"
    layout = find_layout(make(tmp_path / "data", PICTURES | {"labels.csv": table}), SUFFIXES)
    assert layout.classes == ("0", "9", "10")


def test_a_file_of_labels_may_name_splits(tmp_path):
    rows = [("a", "train"), ("b", "Validation"), ("c", "test")]
    table = "file,label,split\n" + "".join(
        f"{name}{n}.jpg,{label},{split}\n"
        for name, split in rows
        for n, label in enumerate(("x", "y"))
    )
    pictures = {f"{name}{n}.jpg": "" for name in "abcd" for n in range(2)}
    root = make(tmp_path / "data", {"labels.csv": table, **pictures})
    layout = find_layout(root, SUFFIXES)
    for name, split in (("a", layout.train), ("b", layout.val), ("c", layout.test)):
        assert [Path(path).name for path in split.paths] == [f"{name}0.jpg", f"{name}1.jpg"]
        assert split.labels.tolist() == [0, 1]
    assert layout.notes == (
        "training images: labels.csv, train (2 images of 2 classes); "
        "validation images: labels.csv, val (2 images of 2 classes); "
        "test images: labels.csv, test (2 images of 2 classes)",
        "left out: 2 images without a row",
    )


def test_each_split_may_have_a_file_of_labels(tmp_path):
    table = "file,label\na.jpg,cat\nb.jpg,dog\n"
    tree = {f"{split}/{name}": "" for split in ("train", "test") for name in ("a.jpg", "b.jpg")}
    tree |= {"train/labels.csv": table, "test/labels.csv": table}
    layout = find_layout(make(tmp_path / "data", {"x/" + k: v for k, v in tree.items()}), SUFFIXES)
    assert layout.test.labels.tolist() == [0, 1]
    assert layout.notes == (
        "training images: x/train/labels.csv (2 images of 2 classes); "
        "test images: x/test/labels.csv (2 images of 2 classes)",
    )


def test_file_names_in_a_table_may_be_of_any_bytes(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / os.fsdecode(b"caf\xe9.jpg")).write_text("")
    (root / "é.jpg").write_text("")
    (root / "labels.csv").write_bytes(b"file,label\ncaf\xe9.jpg,cat\n" + "é.jpg,dog\n".encode())
    assert len(find_layout(root, SUFFIXES).train.paths) == 2


def test_a_table_of_something_else_is_no_file_of_labels(tmp_path):
    root = make(tmp_path / "data", below("train", "test") | {"labels.csv": "ClassId,Name\n0,cat\n"})
    assert summary(root) == {"train": of("train"), "test": of("test")}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("missing.jpg,cat\n", r"got 'missing.jpg' in line 2 of '.*csv': no such file"),
        ("../x.jpg,cat\n", r"expected files in '.*', got '../x.jpg' outside it in line 2"),
        ("/etc/passwd,cat\n", "got '/etc/passwd' outside it in line 2"),
        ("a.jpg,cat\nb.jpg,dog\na.jpg,dog\n", "got 'a.jpg' in line 4 of .* with label 'dog', and "
         "with label 'cat' in line 2"),
        ("notes.txt,cat\n", "got 'notes.txt' in line 2 .* without an image's suffix"),
        ("sub,cat\n", "got 'sub' in line 2 .*: a folder"),
        ("a.jpg\n", "expected a file and its label in line 2"),
        (",cat\n", "expected a file and its label in line 2"),
        ("a.jpg,cat\nb.jpg,cat\n", "expected at least two labels in '.*labels.csv', got cat"),
        ("", "expected a row for each image in '.*labels.csv', got none"),
        ("two,cat\n", "expected one image for 'two' in line 2 .*, got 2 files with this name"),
    ],
)  # fmt: skip
def test_wrong_rows_are_refused_by_file_and_line(rows, message, tmp_path):
    tree = {"labels.csv": f"file,label\n{rows}", "notes.txt": "", "two.jpg": "", "two.png": ""}
    root = make(tmp_path / "data", PICTURES | tree)
    (tmp_path / "x.jpg").write_text("")
    with pytest.raises(ValueError, match=message):
        find_layout(root, SUFFIXES)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.jpg,cat,\n", "expected train, val or test as split in line 2 of .*, got ''"),
        ("a.jpg,cat,all\n", "expected train, val or test as split in line 2 of .*, got 'all'"),
        ("a.jpg,cat,train\nb.jpg,dog,train\nsub/c.jpg,cat,test\n", "two labels in '.*, test', got"),
        ("a.jpg,cat,train\na.jpg,cat,test\n", "with label 'cat' in train in line 2"),
        ("a.jpg,cat,val\nb.jpg,dog,test\n", "expected training images in '.*', got only"),
    ],
)
def test_wrong_splits_are_refused_by_file_and_line(rows, message, tmp_path):
    tree = PICTURES | {"labels.csv": f"file,label,split\n{rows}"}
    with pytest.raises(ValueError, match=message):
        find_layout(make(tmp_path / "data", tree), SUFFIXES)


def test_splits_and_a_file_of_labels_without_splits_are_ambiguous(tmp_path):
    tree = below("train", "test") | {"labels.csv": "file,label\ntrain/cat/0.jpg,cat\n"}
    with pytest.raises(ValueError, match=r"got two: labels.csv, or the folders test, train"):
        check_layout(make(tmp_path / "data", tree), SUFFIXES)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train", ("train", ())),
        ("TrainingSet", ("train", ())),
        ("traindata", ("train", ())),
        ("VAL", ("val", ())),
        ("ILSVRC2012_img_val", ("val", ("ilsvrc", "2012"))),
        ("test1", ("test", ("1",))),
        ("strain", None),
        ("contest", None),
        ("train_val", None),
        ("value", None),
    ],
)
def test_names_say_splits(name, said):
    assert split_words(name) == said


def test_names_are_clear_if_they_say_nothing_else_or_the_same_for_two_splits():
    names = {"train", "seg_train", "seg_test", "bullet_train", "test_tube", "cat"}
    assert names_of_splits(names) == {"train", "seg_train", "seg_test"}
