"""Folder layouts: which folder holds which split, and the files and labels of each."""

from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vit_patch_env.checks import ArgumentError
from vit_patch_env.data.labels_file import Header, Row, header_problem, read_header, read_rows
from vit_patch_env.data.listing import (
    Folder,
    FolderId,
    Folders,
    LeftOut,
    Listing,
    counted,
    joined,
    listed,
    walk,
)
from vit_patch_env.data.split_names import (
    is_wrapper,
    names_of_splits,
    says_unlabelled,
    split_words,
)
from vit_patch_env.names import SplitName
from vit_patch_env.system.shown import escaped

_SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
_DEEPEST = 5
"""Folders that may be around the splits, such as those of an archive."""

_LOOKED_INTO = 5
"""Class folders that are searched for splits within."""

_PURPOSES = {"train": "training", "val": "validation", "test": "test"}


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


class _Place(NamedTuple):
    """A folder of class folders, or with a file of labels.

    Attributes:
        folder: its content.
        above: the folders on the way to it.
        header: of its file of labels, or None.
    """

    folder: Folder
    above: tuple[Folder, ...]
    header: Header | None

    @property
    def barred(self) -> frozenset[FolderId]:
        """Folders above, which links must not lead to again."""
        return frozenset(folder.id for folder in self.above)


class _Plan(NamedTuple):
    """Where the splits are.

    Attributes:
        places: by split; one alone is the whole data set.
        ignored: names of folders beside the places.
        guessed: whether it is anything but `train` and `test`, or class folders alone.
    """

    places: dict[SplitName, _Place]
    ignored: tuple[str, ...]
    guessed: bool


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
    _find_plan(Folders(suffixes), root)


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
    plan = _find_plan(folders, root)
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


def _find_plan(folders: Folders, root: Path) -> _Plan:
    try:
        if not root.is_dir():
            problem = "a file" if root.exists() else "no such folder"
            raise ArgumentError(
                "data_dir", f"must be a folder of images, got {str(root)!r}: {problem}"
            )
    except OSError as error:  # such as a name that is too long
        raise ArgumentError(
            "data_dir", f"must be a folder that can be read, got {str(root)!r}: {error.strerror}"
        ) from error
    plan = _descend(folders, folders.read(str(root)), ())
    _check_train(plan.places, str(root))
    for place in plan.places.values():
        _check_place(folders, place)
    return plan


def _descend(folders: Folders, folder: Folder, above: tuple[Folder, ...]) -> _Plan:
    """The plan of a folder, or of the only one in it that has images."""
    children = _children(folders, folder, above)
    header = _header(folder)
    splits = _split_folders(folders, folder, children)
    if header is not None and not (splits and header.split is None):
        return _Plan({"train": _Place(folder, above, header)}, (), guessed=True)
    if header is not None:
        raise ValueError(
            f"expected labels of one kind in {folder.path!r}, got two: {folder.labels}, or the "
            f"folders {_names(splits.values())}; remove one, or add a column split"
        )
    if splits:
        only = next(iter(splits.values())) if len(splits) == 1 else None
        if only is not None and _holds_splits(folders, only, (*above, folder)):
            plan = _descend(folders, only, (*above, folder))
            return _with_ignored(plan, children, only)
        names = {child.name for child in splits.values()}
        places = {
            split: _inside(folders, child, (*above, folder)) for split, child in splits.items()
        }
        exact = names == {"train", "test"} and not above
        nested = any(len(place.above) > 1 or place.header for place in places.values())
        ignored = tuple(name for name in map(_name, children) if name not in names)
        return _Plan(places, ignored, guessed=nested or not exact)
    filled = _first(2, (path for path in children if folders.hold_pictures(path)))
    if len(filled) == 1 and len(above) < _DEEPEST:
        child = folders.read(filled[0])
        if _has_structure(child) and (not child.pictures or _header(child)):
            plan = _descend(folders, child, (*above, folder))
            return _with_ignored(plan, children, child)
    return _Plan({"train": _Place(folder, above, None)}, (), guessed=bool(above))


def _with_ignored(plan: _Plan, children: list[str], taken: Folder) -> _Plan:
    """The plan of one of the folders beside each other, in which the others are ignored."""
    ignored = tuple(_name(path) for path in children if path != taken.path)
    return plan._replace(ignored=(*ignored, *plan.ignored), guessed=True)


def _split_folders(
    folders: Folders, folder: Folder, children: list[str]
) -> dict[SplitName, Folder]:
    """The folders that hold splits, among those in a folder; empty if there are none.

    A folder with images of its own and without folders is a class, whatever its name, unless all
    those with images are called like splits.

    Raises:
        ValueError: for two folders of one split, and splits beside class folders.
    """
    paths = {_name(path): path for path in children}
    clear = names_of_splits(paths)
    named = {name: words.split for name in paths if (words := split_words(name))}
    shaped = {name for name in named if _has_structure(folders.read(paths[name]))}
    others = [
        name
        for name in paths
        if name not in shaped and name not in clear and not says_unlabelled(name)
    ]
    if not shaped and any(folders.hold_pictures(paths[name]) for name in others):
        return {}
    found: dict[SplitName, list[str]] = {}
    for name in sorted(shaped | clear):
        found.setdefault(named[name], []).append(name)
    for split, names in found.items():
        if len(names) > 1:
            raise ValueError(
                f"expected one folder of {_PURPOSES[split]} images in {folder.path!r}, got "
                f"{len(names)} that could be it: {listed(names)}; rename or move all but one"
            )
    # Beside one split, any folder with images may be a class; beside two, one of images alone, if
    # it is not called, say, "test_unlabelled".
    classes = _first(
        5,
        (
            name
            for name in others
            if (len(found) == 1 and folders.hold_pictures(paths[name]))
            or (name not in named and folders.read(paths[name]).pictures)
        ),
    )
    if classes:
        splits = listed(name for names in found.values() for name in names)
        raise ValueError(
            f"expected either splits or classes in {folder.path!r}, got {splits}, which could be "
            f"splits, beside {listed(classes)}, as if all were classes; rename or move some"
        )
    return {split: folders.read(paths[found[split][0]]) for split in _SPLITS if split in found}


def _inside(folders: Folders, folder: Folder, above: tuple[Folder, ...]) -> _Place:
    """The place of a split in its folder, or in the only one within it if that repeats its name."""
    header = _header(folder)
    children = _children(folders, folder, above)
    if header is None and not folder.pictures and len(children) == 1:
        child = folders.read(children[0])
        if is_wrapper(child.name, folder.name) and _has_structure(child):
            return _inside(folders, child, (*above, folder))
    return _Place(folder, above, header)


def _holds_splits(folders: Folders, folder: Folder, above: tuple[Folder, ...]) -> bool:
    """Whether all folders in a folder are splits again."""
    children = _children(folders, folder, above)
    clear = names_of_splits(map(_name, children))
    return len(children) > 1 and all(
        _name(path) in clear and _has_structure(folders.read(path)) for path in children
    )


def _check_train(splits: Collection[SplitName], root: str) -> None:
    if len(splits) > 1 and "train" not in splits:
        names = " and ".join(_PURPOSES[split] for split in splits)
        raise ValueError(f"expected training images in {root!r}, got only {names} images")


def _check_place(folders: Folders, place: _Place) -> None:
    """Refuse a place with fewer than two class folders, or with splits among them."""
    if place.header is not None:
        return
    folder = place.folder
    children = _children(folders, folder, place.above)
    if len(children) < 2:
        if folder.labels is not None and not children:
            raise ValueError(header_problem(joined(folder.path, folder.labels)))
        raise ValueError(_too_few_classes(folder, [_name(path) for path in children]))
    # A few tell, and reading all takes long in folders of a thousand classes.
    for path in children[:_LOOKED_INTO]:
        inner = {_name(inside) for inside in _children(folders, folders.read(path), place.above)}
        splits = names_of_splits(inner)
        if len(splits) > 1 and not folders.read(path).pictures:
            raise ValueError(
                "expected <data_dir>/train/<class>/* and <data_dir>/test/<class>/*, or class "
                f"folders, got {listed(splits)} in the class folder {path!r}"
            )
    misplaced = [
        _name(path)
        for path in children
        if _is_split(_name(path))
        and not folders.read(path).pictures
        and _has_structure(folders.read(path))
    ]
    if misplaced:
        raise ValueError(
            "expected <data_dir>/train/<class>/* and <data_dir>/test/<class>/*, "
            f"got {listed(misplaced)} among the classes of {folder.path!r}"
        )


def _too_few_classes(folder: Folder, names: list[str]) -> str:
    found = listed(names) or "none"
    if folder.pictures:
        found += f", and {counted(len(folder.pictures), 'image outside class folders')}"
    return f"expected at least two class folders in {folder.path!r}, got {found}"


def _leave_out(folders: Folders, plan: _Plan, left_out: LeftOut) -> None:
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
        for link in {*folder.links} - set(map(_name, _children(folders, folder, above))):
            left_out.add("folder reached twice by links", link)


def _list_classes(folders: Folders, place: _Place, left_out: LeftOut) -> _Labelled:
    """The images of class folders.

    Raises:
        ValueError: for fewer than two classes, or a class of which no file is an image.
    """
    folder = place.folder
    walked = walk(folders, _children(folders, folder, place.above), {*place.barred, folder.id})
    paths: list[str] = []
    labels: list[str] = []
    classes: list[str] = []
    for start, pictures in walked.pictures.items():
        name = _name(start)
        rest = walked.left_out[start]
        if pictures:
            classes.append(name)
            paths += pictures
            labels += [name] * len(pictures)
        elif rest.unexpected():
            raise ValueError(
                f"expected images in every class folder of {folder.path!r}, got none in "
                f"{escaped(name)}, but {rest.unexpected()}"
            )
        left_out.update(rest)
    if len(classes) < 2:
        raise ValueError(_too_few_classes(folder, classes))
    return _Labelled(folder.path, folder.path, paths, labels, classes)


def _list_rows(
    folders: Folders, place: _Place, header: Header, split: SplitName, left_out: LeftOut
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
    _check_train(by_split, table)
    several = len(by_split) > 1
    return {
        name: _of_rows(by_split[name], folder.path, f"{table}, {name}" if several else table)
        for name in _SPLITS
        if name in by_split
    }


def _of_rows(rows: list[Row], root: str, source: str) -> _Labelled:
    classes = {row.label for row in rows}
    if len(classes) < 2:
        raise ValueError(f"expected at least two labels in {source!r}, got {listed(classes)}")
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
            raise ValueError(
                f"expected the same classes in {first.source!r} and {other.source!r}, "
                f"got {listed(difference)} in only one of them"
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
        f"{_PURPOSES[split]} images: {shown[split]}" for split in _SPLITS if split in shown
    )


def _source(labelled: _Labelled, root: Path) -> str:
    relative = Path(labelled.source).relative_to(root)
    name = str(relative) if relative.parts else root.resolve().name
    images = counted(len(labelled.paths), "image")
    return f"{escaped(name)} ({images} of {counted(len(labelled.classes), 'class')})"


def _class_notes(folders: Folders, plan: _Plan, classes: list[str]) -> list[str]:
    """Lines for classes that are called like splits, and those that may be groups of classes."""
    place = next(iter(plan.places.values()))
    if place.header is not None:
        return []
    notes = []
    names = [name for name in classes if _is_split(name)]
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


def _children(folders: Folders, folder: Folder, above: tuple[Folder, ...]) -> list[str]:
    return folders.children(folder, [outer.id for outer in above])


def _has_structure(folder: Folder) -> bool:
    """Whether a folder has folders, or a file of labels."""
    return bool(folder.folders or folder.links or _header(folder))


def _header(folder: Folder) -> Header | None:
    return None if folder.labels is None else read_header(joined(folder.path, folder.labels))


def _is_split(name: str) -> bool:
    """Whether a name says a split and nothing else."""
    words = split_words(name)
    return words is not None and not words.rest


def _first(count: int, items: Iterable[str]) -> list[str]:
    return list(islice(items, count))


def _name(path: str) -> str:
    return Path(path).name


def _names(found: Iterable[Folder]) -> str:
    return listed(folder.name for folder in found)
