"""Folder layouts: which folder holds which split, and the files and labels of each."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vit_patch_env.checks import InputError, counted
from vit_patch_env.data.labels_file import Header, Row, read_rows
from vit_patch_env.data.layout_plan import (
    PURPOSES,
    SPLITS,
    Place,
    Plan,
    check_train,
    children_of,
    find_plan,
    name_of,
    says_only_split,
    too_few_classes,
)
from vit_patch_env.data.left_out import LeftOut
from vit_patch_env.data.listing import Folder, FolderId, Folders, Listing, joined, walk
from vit_patch_env.names import SplitName
from vit_patch_env.system.shown import escaped, listed


class Layout(NamedTuple):
    """The images of a folder in splits.

    Attributes:
        train: training images; all, where the folder has one split.
        val: validation images, or None where they are to be split off `train`.
        test: test images, or None where they are to be held out of `train`.
        classes: names by label, in printable characters.
        notes: lines to print: what was taken for what if that was guessed, and what was left out.
    """

    train: Listing
    val: Listing | None
    test: Listing | None
    classes: tuple[str, ...]
    notes: tuple[str, ...]


class _Labelled(NamedTuple):
    """Where images are from, their paths in order, each one's class, and all classes in order."""

    root: str
    source: str
    paths: list[str]
    labels: list[str]
    classes: list[str]


def check_layout(root: Path, suffixes: Collection[str]) -> None:
    """Refuse a folder whose layout cannot be used, without listing its images.

    Args:
        root: as in `find_layout`.
        suffixes: as in `find_layout`.

    Raises:
        ValueError: as `find_layout`, for what names of folders and headers of files say.
    """
    find_plan(Folders(suffixes), root)


def find_layout(root: Path, suffixes: Collection[str]) -> Layout:
    """The images of a folder with their labels, in the splits that its folders say.

    These are class folders in `root/train` and `root/test`, in folders with similar names, in only
    one of them, or in `root` itself, also one folder down. A validation split without a test split
    is the test split. Instead of class folders there may be a `labels.csv` with the columns `file`
    and `label` and, for all splits in one file, `split`.

    Args:
        root: the folder.
        suffixes: of image files, in lower case with the dot.

    Raises:
        ValueError: if `root` is missing, cannot be read, is ambiguous, or has fewer than two
            classes, other classes in one of the splits, a class without images, or a wrong row in
            `labels.csv`.
    """
    folders = Folders(suffixes)
    plan = find_plan(folders, root)
    left_out = LeftOut()
    _leave_out(folders, plan, left_out)
    for name in plan.ignored:
        left_out.add("other folder", name)
    splits: dict[SplitName, _Labelled] = {}
    for split, place in plan.places.items():
        if place.header is None:
            splits[split] = _list_classes(folders, place, left_out)
        else:
            splits.update(_list_rows(folders, place, place.header, split, left_out))
    _check_classes(splits)
    classes = next(iter(splits.values())).classes
    notes = _class_notes(folders, plan, classes)
    if plan.guessed or notes:
        notes = [_taken(splits, root), *notes]
    if left_out:
        notes.append(f"left out: {left_out}")
    listings = {split: _listing(labelled, classes) for split, labelled in splits.items()}
    val, test = listings.get("val"), listings.get("test")
    if len(listings) == 1:
        (train,), val, test = listings.values(), None, None
    else:
        train = listings["train"]
        if test is None:
            val, test = None, val
    return Layout(train, val, test, tuple(escaped(name) for name in classes), tuple(notes))


def _leave_out(folders: Folders, plan: Plan, left_out: LeftOut) -> None:
    """Count what is left out in the folders of class folders and above them."""
    seen: dict[FolderId, tuple[Folder, tuple[Folder, ...]]] = {}
    for place in plan.places.values():
        chain = (*place.above, place.folder) if place.header is None else place.above
        for index, folder in enumerate(chain):
            seen.setdefault(folder.id, (folder, chain[:index]))
    for folder, above in seen.values():
        left_out.update(folder.left_out)
        if folder.pictures:
            left_out.add("image outside class folders", count=len(folder.pictures))
        for link in {*folder.links} - set(map(name_of, children_of(folders, folder, above))):
            left_out.add("folder reached twice by links", link)


def _list_classes(folders: Folders, place: Place, left_out: LeftOut) -> _Labelled:
    """The images of class folders.

    Raises:
        ValueError: for fewer than two classes, or a class of which no file is an image.
    """
    folder = place.folder
    walked = walk(folders, children_of(folders, folder, place.above), {*place.barred, folder.id})
    paths: list[str] = []
    labels: list[str] = []
    classes: list[str] = []
    for start, pictures in walked.pictures.items():
        name = name_of(start)
        rest = walked.left_out[start]
        if pictures:
            classes.append(name)
            paths += pictures
            labels += [name] * len(pictures)
        elif rest.unexpected():
            raise InputError(
                f"expected images in every class folder of {folder.path!r}, got none in "
                f"{escaped(name)}, but {rest.unexpected()}"
            )
        left_out.update(rest)
    if len(classes) < 2:
        raise InputError(too_few_classes(folder, classes))
    return _Labelled(folder.path, folder.path, paths, labels, classes)


def _list_rows(
    folders: Folders, place: Place, header: Header, split: SplitName, left_out: LeftOut
) -> dict[SplitName, _Labelled]:
    """The images of a file of labels, by split.

    Raises:
        ValueError: for a wrong row, or fewer than two labels in a split.
    """
    folder = place.folder
    assert folder.labels is not None  # it has a header
    table = joined(folder.path, folder.labels)
    walked = walk(folders, [folder.path], place.barred)
    left_out.update(walked.left_out[folder.path])
    rows = read_rows(table, header, set(walked.pictures[folder.path]), left_out)
    by_split: dict[SplitName, list[Row]] = {}
    for row in rows:
        by_split.setdefault(row.split or split, []).append(row)
    check_train(by_split, table)
    several = len(by_split) > 1
    return {
        name: _of_rows(by_split[name], folder.path, f"{table}, {name}" if several else table)
        for name in SPLITS
        if name in by_split
    }


def _of_rows(rows: list[Row], root: str, source: str) -> _Labelled:
    classes = {row.label for row in rows}
    if len(classes) < 2:
        raise InputError(
            f"expected at least two labels in {source!r}, got {listed(sorted(classes))}"
        )
    numbers = all(name.isascii() and name.isdigit() for name in classes)
    order = sorted(classes, key=lambda name: (int(name) if numbers else 0, name))
    rank = {name: index for index, name in enumerate(order)}
    rows = sorted(rows, key=lambda row: (rank[row.label], row.path))
    return _Labelled(root, source, [row.path for row in rows], [row.label for row in rows], order)


def _check_classes(splits: dict[SplitName, _Labelled]) -> None:
    first, *rest = splits.values()
    for other in rest:
        difference = {*first.classes} ^ {*other.classes}
        if difference:
            raise InputError(
                f"expected the same classes in {first.source!r} and {other.source!r}, "
                f"got {listed(sorted(difference))} in only one of them"
            )


def _taken(splits: dict[SplitName, _Labelled], root: Path) -> str:
    """What was taken for what: "training images: Train (1,200 images of 6 classes); ..."."""
    shown = {split: _source(labelled, root) for split, labelled in splits.items()}
    if len(shown) == 1:
        (only,) = shown.values()
        return f"all images: {only}; test and validation images are split off them"
    if "test" not in shown:
        return (
            f"training images: {shown['train']}; test images: {shown['val']}, "
            "as there is no test split; validation images are split off the training images"
        )
    return "; ".join(
        f"{PURPOSES[split]} images: {shown[split]}" for split in SPLITS if split in shown
    )


def _source(labelled: _Labelled, root: Path) -> str:
    relative = Path(labelled.source).relative_to(root)
    name = str(relative) if relative.parts else root.resolve().name
    images = counted(len(labelled.paths), "image")
    return f"{escaped(name)} ({images} of {counted(len(labelled.classes), 'class')})"


def _class_notes(folders: Folders, plan: Plan, classes: list[str]) -> list[str]:
    """Lines for classes that are called like splits, and those that may be groups of classes."""
    place = next(iter(plan.places.values()))
    if place.header is not None:
        return []
    notes = []
    names = [name for name in classes if says_only_split(name)]
    if names:
        notes.append(f"taken for classes, as they hold images themselves: {listed(names)}")
    if not any(folders.read(joined(place.folder.path, name)).pictures for name in classes):
        notes.append(
            f"taken for classes, with all images in the folders within them: {listed(classes)}"
        )
    return notes


def _listing(labelled: _Labelled, classes: list[str]) -> Listing:
    index = {name: label for label, name in enumerate(classes)}
    labels = np.array([index[name] for name in labelled.labels], dtype=np.int64)
    return Listing(labelled.root, labelled.paths, labels)
