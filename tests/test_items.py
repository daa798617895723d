"""Items of people's data sets, their labels, and what `from_torch` makes of them."""

import io
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder, VisionDataset
from torchvision.transforms import v2

from tests.test_data import same_images
from vit_patch_env.data.items import image_tensor, label_of, n_items, read_item, split_item
from vit_patch_env.data.labels import class_names, known_labels, number_labels
from vit_patch_env.data.resize import resize_images
from vit_patch_env.data.torch_datasets import from_torch

COLOUR = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 5, 4), dtype=np.uint8))
GREY = COLOUR[:1]
ROWS = COLOUR.permute(1, 2, 0).numpy()  # (height, width, channels)
WIDE = torch.cat((torch.zeros(3, 2, 4), torch.ones(3, 2, 4)), dim=2)  # black left, white right


def mask(image):
    return image > 127


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(ROWS), COLOUR),
        (Image.fromarray(ROWS[..., 0]), GREY),
        (Image.fromarray(mask(ROWS[..., 0])), mask(GREY) * 255),
        (Image.fromarray(ROWS[..., 0].astype(np.uint16) * 257), GREY),
        (Image.fromarray(ROWS).convert("RGBA"), COLOUR),
        (Image.new("RGBA", (2, 2)), torch.full((3, 2, 2), 255)),
        (Image.new("LA", (2, 2), (9, 255)), torch.full((1, 2, 2), 9)),
        (Image.new("P", (2, 2)), torch.zeros(3, 2, 2)),
        (Image.new("CMYK", (2, 2)), torch.full((3, 2, 2), 255)),
        (ROWS, COLOUR),
        (ROWS[::-1, ::-1], COLOUR.flip(1, 2)),
        (ROWS[..., :1], GREY),
        (ROWS[..., 0], GREY),
        (mask(ROWS), mask(COLOUR) * 255),
        (COLOUR, COLOUR),
        (GREY, GREY),
        (GREY[0], GREY),
        (mask(COLOUR), mask(COLOUR) * 255),
        (COLOUR / 255, COLOUR),
        (COLOUR.double() / 255, COLOUR),
        ((COLOUR / 255).requires_grad_(), COLOUR),
        (torch.tensor([[[0.0, 0.5, 0.999, 1.0]]]), torch.tensor([[[0, 127, 255, 255]]])),
        (tv_tensors.Image(COLOUR), COLOUR),
        (COLOUR.permute(0, 2, 1), COLOUR.permute(0, 2, 1)),
    ],
)
def test_images_of_every_kind_have_their_values(image, expected):
    pixels = image_tensor(image, "item 7")
    assert type(pixels) is torch.Tensor
    assert pixels.dtype == torch.uint8
    assert pixels.shape == expected.shape
    assert torch.equal(pixels, expected.to(torch.uint8))


def test_a_read_only_array_is_copied():
    rows = ROWS.copy()
    rows.flags.writeable = False
    assert torch.equal(image_tensor(rows, "item 7"), COLOUR)


def test_a_photograph_of_a_data_set_is_upright():
    image = Image.fromarray(ROWS)
    exif = image.getexif()
    exif[0x0112] = 3  # turned by 180 degrees
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    assert torch.equal(image_tensor(Image.open(file), "item 7"), COLOUR.flip(1, 2))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (COLOUR.short(), r"uint8, or of floating-point values in \[0, 1\], got torch.int16"),
        (COLOUR.int(), "got torch.int32"),
        (COLOUR.long(), "got torch.int64"),
        (COLOUR.to(torch.complex64), "got torch.complex64"),
        (
            COLOUR.float(),
            r"floating-point images in \[0, 1\], not normalised, got values in \[",
        ),
        (torch.full((3, 5, 4), -0.5), r"got values in \[-0.5"),
        (torch.full((3, 5, 4), torch.nan), r"got values in \[nan, nan\]"),
        (torch.zeros(20, 20, 3), r"got a tensor \(20, 20, 3\), .*permute"),
        (torch.zeros(20, 8, 8), r"1 channel \(grey\) or 3 \(RGB\), got .*which has 20"),
        (torch.zeros(4, 8, 8), "which has 4"),
        (torch.zeros(2, 8, 8), "which has 2"),
        (torch.zeros(1, 3, 8, 8), r"got \(1, 3, 8, 8\)"),
        (torch.zeros(8), r"got \(8,\)"),
        (torch.zeros(3, 0, 8), "with pixels, got a height of 0 and a width of 8"),
        (torch.zeros(3, 4, 401), "a ratio of at most 100 in .*, got 401 by 4 pixels"),
        (np.zeros((8, 8, 3)), r"expected uint8 arrays .*, got ndarray \(8, 8, 3\) of float64"),
        (np.zeros((8, 8, 3), np.int32), "of int32"),
        (np.zeros((8, 8, 3), np.uint16), "of uint16"),
        (np.zeros((8, 8, 4), np.uint8), "which has 4"),
        (np.zeros((3, 32, 32), np.uint8), "which has 32"),
        (np.zeros((0, 8, 3), np.uint8), "got a height of 0"),
        (Image.new("F", (8, 8)), "got one of mode F .*: 32-bit pixels"),
        (Image.new("I", (8, 8)), "got one of mode I "),
        (Image.new("L", (0, 8)), "got a height of 8 and a width of 0"),
        (Image.new("L", (2000, 1)), "got 2000 by 1 pixels"),
        ("cat.png", "expected PIL images, .*, got str"),
        (None, "got NoneType"),
        ([[1, 2], [3, 4]], "got list"),
    ],
)
def test_other_images_are_refused_with_their_index_in_one_line(image, message):
    with pytest.raises(ValueError, match=message) as refusal:
        read_item([(COLOUR, 0), (image, 1)], 1, "the training set")
    assert "item 1 of the training set" in str(refusal.value)
    assert "\n" not in str(refusal.value)


PAIR = (COLOUR, 3)
Sample = namedtuple("Sample", "label path image")
Plain = namedtuple("Plain", "pixels number")


@pytest.mark.parametrize(
    "item",
    [
        PAIR,
        list(PAIR),
        (*PAIR, "path.png", 12),
        Sample(3, "path.png", COLOUR),
        Plain(*PAIR),
        {"image": COLOUR, "label": 3},
        {"img": COLOUR, "label": 3, "id": 1},
        {"pixel_values": COLOUR, "labels": 3},
        UserDict({"image": COLOUR, "target": 3}),
        {"image": COLOUR, "class": 3},
    ],
)
def test_items_of_every_form_are_an_image_and_a_label(item):
    image, label = split_item(item, "item 7")
    assert image is COLOUR
    assert label == 3


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((COLOUR,), "expected a pair .*, got a tuple of length 1"),
        (COLOUR, "got Tensor"),
        (None, "got NoneType"),
        ("ab", "got str"),
        ({"image": COLOUR, "caption": "a\x1bcat"}, "got the keys image, caption"),
        ({"label": 3, "im\x1bage": COLOUR}, r"got the keys label, im\\x1bage"),
        ({}, "got the keys of an empty one"),
    ],
)
def test_other_items_are_refused_with_their_index(item, message):
    with pytest.raises(ValueError, match=message) as refusal:
        split_item(item, "item 7 of the test set")
    assert "item 7 of the test set" in str(refusal.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        (10**12, 10**12),
        (True, 1),
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.bool_(False), 0),
        (np.array(3), 3),
        (np.array([3]), 3),  # as MedMNIST has them
        (torch.tensor(3), 3),
        (torch.tensor([3]), 3),
        (torch.tensor(True), 1),
        ("cat", "cat"),
        (np.str_("cat"), "cat"),
    ],
)
def test_labels_of_every_kind_are_integers_or_text(value, expected):
    label = label_of(value, "item 7")
    assert label == expected
    assert type(label) is type(expected)


@pytest.mark.parametrize(
    "value",
    [
        2.0, np.float32(2), torch.tensor(2.0), torch.tensor([0, 1, 0]), np.eye(3)[0], [0, 1, 0],
        -1, torch.tensor(-1), None, "", b"cat", (1, 2), {"a": 1},
    ],
)  # fmt: skip
def test_other_labels_are_refused_with_their_index_in_one_line(value):
    expected = "expected an integer label from 0, or text, got .* in item 1 of the training set"
    with pytest.raises(ValueError, match=expected) as refusal:
        read_item([PAIR, (COLOUR, value)], 1, "the training set")
    assert "\n" not in str(refusal.value)


class Endless(IterableDataset):
    def __iter__(self):
        yield PAIR

    def __len__(self):
        return 10


class NoLength(Dataset):
    def __getitem__(self, index):
        return PAIR


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Endless(), r"with a length and an index as the training set, got Endless, .*list\("),
        (NoLength(), "got NoLength"),
        (iter([PAIR]), "got list_iterator"),
        (7, "got int"),
        ({"train": [PAIR], "test": [PAIR]}, "got a dict of train, test"),
        ([], r"expected a data set of \(image, label\) pairs as the training set, got an empty"),
    ],
)
def test_what_has_no_items_by_index_is_refused(dataset, message):
    with pytest.raises(ValueError, match=message):
        n_items(dataset, "the training set")


class Listed(Dataset):
    """Grey images of one value each; how often they are read is counted."""

    def __init__(self, labels, /, n=None, read_as=None, **attributes):
        self.labels_in_items = labels if read_as is None else read_as
        self.n = n or len(labels)
        self.read = []
        self.__dict__.update(attributes)

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.read.append(index)
        return torch.full((1, 4, 4), index % 256, dtype=torch.uint8), self.labels_in_items[index]


LABELS = [0, 1, 1, 2, 0, 2]
SAMPLES = [(f"{label}.png", label) for label in LABELS]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("targets", LABELS),
        ("targets", torch.tensor(LABELS)),
        ("labels", np.array(LABELS)),
        ("_labels", LABELS),
        ("y", LABELS),
        ("samples", SAMPLES),
        ("_samples", SAMPLES),
    ],
)
def test_labels_that_a_data_set_lists_are_known_without_reading_all_items(name, values):
    dataset = Listed(LABELS, **{name: values})
    assert known_labels(dataset, "the training set") == LABELS
    assert sorted(dataset.read) == [0, 1, 3, 5]  # one of each class, and the last


def test_known_labels_pass_through_subsets_parts_and_target_transforms():
    dataset = Listed(LABELS, targets=LABELS)
    assert known_labels(Subset(dataset, [5, 0, 1]), "") == [2, 0, 1]
    assert known_labels(ConcatDataset([dataset, Subset(dataset, [3])]), "") == [*LABELS, 2]
    assert known_labels(TensorDataset(torch.zeros(6, 1, 4, 4), torch.tensor(LABELS)), "") == LABELS
    parity = Listed(
        LABELS, read_as=[0, 1, 1, 0, 0, 0], targets=LABELS, target_transform=lambda label: label % 2
    )
    assert known_labels(parity, "") == [0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("attributes", "read_as"),
    [
        ({}, LABELS),
        ({"targets": [0, 1, 1, 2, 0, 0]}, LABELS),  # the last one differs
        ({"targets": [2, 1, 1, 2, 0, 2]}, LABELS),
        ({"targets": [0, 1, 2]}, LABELS),
        ({"targets": torch.eye(6)}, LABELS),
        ({"labels": ["a", "b"]}, LABELS),
        ({"y": None}, LABELS),
        ({"labels": 3}, LABELS),
    ],
)
def test_lists_that_are_no_labels_of_the_items_are_not_used(attributes, read_as):
    dataset = Listed(LABELS, read_as=read_as, **attributes)
    assert known_labels(dataset, "the training set") is None


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"classes": ["cat", "dog"]}, ("cat", "dog")),
        ({"classes": np.array(["cat", "dog"])}, ("cat", "dog")),
        ({"classes": [("crane",), ("tench", "Tinca"), ("crane",)]},
         ("crane (0)", "tench, Tinca", "crane (2)")),
        ({"class_to_idx": {"dog": 1, "cat": 0}}, ("cat", "dog")),
        ({"class_to_idx": {"dog": 5, "cat": 0}}, None),
        ({"categories": ["cat", "dog"]}, ("cat", "dog")),
        ({"classes": 10}, None),
        ({"classes": []}, None),
        ({"classes": [1, 2]}, None),
        ({"categories": [{"id": 1}]}, None),
        ({"classes": ["cat", "dog"], "target_transform": abs}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_class_names_are_found(attributes, expected):
    dataset = Listed([0, 1], **attributes)
    assert class_names(dataset) == expected
    assert class_names(Subset(dataset, [0])) == expected
    assert class_names(ConcatDataset([dataset, dataset])) == expected


def test_parts_with_other_classes_are_refused():
    parts = [Listed([0, 1], classes=names) for names in (["cat", "dog"], ["cow", "dog"])]
    with pytest.raises(ValueError, match="in all parts of a ConcatDataset, got cat, dog and cow,"):
        class_names(ConcatDataset(parts))


ABC = ("a", "b", "c")


def by_item(labels):
    return None if labels is None else dict(enumerate(labels))


@pytest.mark.parametrize(
    ("train", "test", "train_names", "test_names", "expected"),
    [
        ([1, 0, 1], None, None, None, ([1, 0, 1], None, ("0", "1"))),
        ([3, 10**12, 3], [10**12], None, None, ([0, 1, 0], [1], ("3", "1000000000000"))),
        ([10, 9], [9, 10], None, None, ([1, 0], [0, 1], ("9", "10"))),
        (["dog", "cat"], ["cat"], None, None, ([1, 0], [0], ("cat", "dog"))),
        ([0, 1, 2], [0, 1], ABC, ("a", "c"), ([0, 1, 2], [0, 2], ABC)),
        ([0, 1, 2], [0, 1], ABC, ("c", "b", "a"), ([0, 1, 2], [2, 1], ABC)),
        ([0, 1, 2], ["c"], ABC, None, ([0, 1, 2], [2], ABC)),
        (["a", "b", "c"], [0], None, ("c", "a"), ([0, 1, 2], [2], ABC)),
        ([0, 1, 2], [2], ABC, None, ([0, 1, 2], [2], ABC)),
        ([0, 1, 2], [2], None, ABC, ([0, 1, 2], [2], ABC)),
        ([0, 2], [2], ABC, ABC, ([0, 2], [2], ABC)),
        (["c", "a"], None, ABC, None, ([2, 0], None, ABC)),
    ],
)
def test_labels_are_numbered_by_name_or_else_by_number(
    train, test, train_names, test_names, expected
):
    numbered = number_labels(by_item(train), by_item(test), train_names, test_names)
    assert numbered.train.dtype == np.int64
    numbers = [None if labels is None else labels.tolist() for labels in numbered[:2]]
    assert (*numbers, numbered.classes) == expected


@pytest.mark.parametrize(
    ("train", "test", "train_names", "test_names", "message"),
    [
        ([0, 0], None, None, None, "at least two classes, got 0"),
        ([0, 0], None, ABC, None, "images of at least two classes .*, got only those of a"),
        ([0, 0], None, ("a",), None, "at least two classes, got a"),
        ([0, "a"], None, None, None, "of one kind, .*, got 0 in item 0 and 'a' in item 1 of the t"),
        ([0, 1], ["a"], None, None, "of one kind, .*, got 0 in the training set and 'a' in the te"),
        ([0, 1], [0, 2, 7], None, None, "every class of the test set .*, got none of 2, 7"),
        (["a", "b"], ["c"], None, None, "got none of c"),
        ([0, 1], [0], ("a", "b"), ("c", "a"), "got none of c"),
        ([0, 1], [2], ABC, ABC, "got none of c"),
        ([0, 3], None, ABC, None, r"must be in \[0, 2\], for the classes a, b, c, got 3 in item 1"),
        (["a", "d"], None, ABC, None, "one of the classes a, b, c, got 'd' in item 1 of the train"),
        ([0, 1], [3], ABC, None, "got 3 in item 0 of the test set"),
        (list(range(12)), list(range(30)), None, None, "12, 13, 14, 15, 16 and 13 more"),
    ],
)
def test_labels_that_do_not_match_are_refused_by_name(
    train, test, train_names, test_names, message
):
    with pytest.raises(ValueError, match=message):
        number_labels(by_item(train), by_item(test), train_names, test_names)


def test_an_image_folder_keeps_its_class_names_and_matches_them(make_folder):
    """The test folder has no `cat`: by number, dogs would be scored as cats."""
    train = make_folder("train", splits=("",))
    test = make_folder("test", splits=("",), classes=("dog", "dog2"))
    (test / "dog2").rename(test.parent / "unused")
    data = from_torch(ImageFolder(train), ImageFolder(test), image_size=12)
    assert data.classes == ("cat", "dog")
    assert data.test.labels.tolist() == [1] * 20


def test_only_the_items_that_are_used_are_read():
    labels = [index % 2 for index in range(1000)]
    train, test = Listed(labels, targets=labels), Listed(labels[:20], targets=labels[:20])
    data = from_torch(train, test, image_size=4, train_fraction=0.1)
    assert len(data.train.labels) + len(data.val.labels) == 100
    assert len(train.read) <= 100 + 3  # three were compared with the list
    values = data.train.images[:, 0, 0, 0]  # the index, modulo 256, of an even number of items
    assert torch.equal(values % 2, data.train.labels)


def test_items_without_a_list_of_labels_are_read_once():
    dataset = Listed([index % 2 for index in range(50)])
    data = from_torch(dataset, image_size=4)
    assert sorted(dataset.read) == list(range(50))
    for split in (data.train, data.val, data.test):
        assert torch.equal(split.images[:, 0, 0, 0] % 2, split.labels)


def test_a_list_of_labels_that_is_wrong_for_some_items_is_noticed():
    labels = [index % 2 for index in range(50)]
    wrong = [*labels[:20], 1 - labels[20], *labels[21:]]
    with pytest.raises(
        ValueError, match=r"expected the label [01], as listed .*, in item 20 of the"
    ):
        from_torch(Listed(labels, targets=wrong), image_size=4)


@pytest.mark.parametrize("grey_first", [True, False])
def test_grey_images_among_colour_become_colour(grey_first):
    grey, colour = torch.full((1, 4, 4), 7), torch.full((3, 4, 4), 9)
    pairs = [
        ((grey if (index < 20) == grey_first else colour).to(torch.uint8), index % 2)
        for index in range(40)
    ]
    data = from_torch(pairs, image_size=4)
    images = torch.cat([split.images for split in (data.train, data.val, data.test)])
    assert images.shape == (40, 3, 4, 4)
    assert sorted(images.flatten(1).double().mean(1).tolist()) == [7] * 20 + [9] * 20


def test_a_grey_test_set_of_a_training_set_in_colour_becomes_colour():
    train, test = [(COLOUR, 0), (COLOUR, 1)] * 20, [(GREY, 0), (GREY, 1)]
    data = from_torch(train, test, image_size=4)
    assert data.test.images.shape == (2, 3, 4, 4)
    assert data.test.images.is_contiguous()


def test_text_labels_and_given_names_become_classes():
    pairs = [(COLOUR, ("dog", "cat")[index % 2]) for index in range(40)]
    assert from_torch(pairs, image_size=4).classes == ("cat", "dog")
    assert from_torch(pairs, image_size=4, classes=("dog", "cat")).classes == ("dog", "cat")
    numbers = [(COLOUR, index % 2) for index in range(40)]
    assert from_torch(numbers, image_size=4, classes=("no", "yes")).classes == ("no", "yes")


def test_given_names_replace_those_of_the_data_set_in_their_order():
    dataset = Listed([0, 1] * 20, classes=["n01", "n02"])
    assert from_torch(dataset, image_size=4, classes=("cat", "dog")).classes == ("cat", "dog")
    assert from_torch(dataset, image_size=4, classes=["n01", "n02"]).classes == ("n01", "n02")
    with pytest.raises(ValueError, match="classes must be different names, got cat, cat"):
        from_torch(dataset, image_size=4, classes=("cat", "cat"))
    for classes in (("cat", "dog", "cow"), ("n02", "n01")):
        with pytest.raises(ValueError, match=r"classes must be names .* order, n01, n02, got"):
            from_torch(dataset, image_size=4, classes=classes)


def test_a_large_label_takes_no_memory():
    pairs = [(COLOUR, (3, 10**12)[index % 2]) for index in range(40)]
    data = from_torch(pairs, image_size=4)
    assert data.classes == ("3", "1000000000000")
    assert data.train.labels.unique().tolist() == [0, 1]


def test_what_cannot_be_read_is_refused_by_its_file_or_its_index(make_folder):
    root = make_folder(splits=("",))
    (root / "dog" / "003.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"readable image, got .*dog/003\.png: not a") as no:
        from_torch(ImageFolder(root), image_size=12)
    assert "\n" not in str(no.value)
    opened = ImageFolder(root, transform=lambda image: image)
    with pytest.raises(ValueError, match="readable item 23 of the training set, got Unident") as no:
        from_torch(opened, image_size=12)
    assert "\n" not in str(no.value)
    short = Listed([0, 1], n=3)
    with pytest.raises(ValueError, match="readable item 2 of the training set, got IndexError"):
        from_torch(short, image_size=4)


def test_errors_in_a_data_sets_own_code_keep_their_kind():
    class Faulty(Listed):
        def __getitem__(self, index):
            return self.no_such_attribute

    with pytest.raises(AttributeError, match="no_such_attribute"):
        from_torch(Faulty([0, 1]), image_size=4)


def test_images_are_cropped_or_stretched_to_squares():
    """Black, with white to the left and right of the central square."""
    image = torch.zeros(1, 4, 8, dtype=torch.uint8)
    image[..., :2] = image[..., 6:] = 255
    assert (resize_images(image, 4, "crop") == 0).all()
    assert (resize_images(image, 4, "stretch")[..., [0, 3]] > 200).all()


def test_images_are_padded_to_squares_with_white():
    dark = torch.zeros(2, 3, 4, 8, dtype=torch.uint8)
    padded = resize_images(dark, 8, "pad")
    assert padded.shape == (2, 3, 8, 8)
    assert (padded[..., :2, :] == 255).all()
    assert (padded[..., 2:6, :] == 0).all()
    assert (padded[..., 6:, :] == 255).all()
    assert resize_images(dark[..., :1, :], 2, "pad").shape == (2, 3, 2, 2)  # a side of 0.25


def test_from_torch_resizes_as_asked():
    pairs = [((WIDE * 255).to(torch.uint8), index % 2) for index in range(40)]
    padded = from_torch(pairs, image_size=8, resize="pad").train.images
    assert (padded[..., :2, :] == 255).all()
    with pytest.raises(ValueError, match="resize must be one of crop, stretch, pad, got 'zoom'"):
        from_torch(pairs, image_size=8, resize="zoom")


def test_a_data_sets_own_transform_is_applied():
    class Own(VisionDataset):
        def __len__(self):
            return 40

        def __getitem__(self, index):
            return self.transform(Image.fromarray(ROWS)), index % 2

    to_float = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    data = from_torch(Own("", transform=to_float), [(COLOUR, 0), (COLOUR, 1)], image_size=4)
    expected = resize_images(COLOUR, 4, "crop").expand(2, -1, -1, -1)
    assert same_images(data.test.images, expected)
    assert same_images(data.train.images[:2], expected)
