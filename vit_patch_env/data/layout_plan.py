"""Which folder holds which split: by the names of folders and the places of images."""

from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vit_patch_env.checks import ArgumentError, InputError, counted
from vit_patch_env.data.labels_file import Header, header_problem, read_header
from vit_patch_env.data.listing import Folder, FolderId, Folders, joined
from vit_patch_env.data.split_names import (
    is_wrapper,
    names_of_splits,
    says_unlabelled,
    split_words,
)
from vit_patch_env.names import SplitName
from vit_patch_env.system.shown import listed

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
PURPOSES = {"train": "training", "val": "validation", "test": "test"}

_DEEPEST = 5
"""Folders that may be around the splits, such as those of an archive."""

_LOOKED_INTO = 5
"""Class folders that are searched for splits within."""


class Place(NamedTuple):
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


class Plan(NamedTuple):
    """Where the splits are.

    Attributes:
        places: by split; one alone is the whole data set.
        ignored: names of folders beside the places.
        guessed: whether it is anything but `train` and `test`, or class folders alone.
    """

    places: dict[SplitName, Place]
    ignored: tuple[str, ...]
    guessed: bool


def find_plan(folders: Folders, root: Path) -> Plan:
    """Where the splits of a folder are.

    Raises:
        ValueError: if `root` is missing, cannot be read, is ambiguous, or has fewer than two class
            folders in one of its splits.
    """
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
    check_train(plan.places, str(root))
    for place in plan.places.values():
        _check_place(folders, place)
    return plan


def _descend(folders: Folders, folder: Folder, above: tuple[Folder, ...]) -> Plan:
    """The plan of a folder, or of the only one in it that has images."""
    children = children_of(folders, folder, above)
    header = _header(folder)
    splits = _split_folders(folders, folder, children)
    if header is not None and not (splits and header.split is None):
        return Plan({"train": Place(folder, above, header)}, (), guessed=True)
    if header is not None:
        raise InputError(
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
        ignored = tuple(name for name in map(name_of, children) if name not in names)
        return Plan(places, ignored, guessed=nested or not exact)
    filled = _first(2, (path for path in children if folders.hold_pictures(path)))
    if len(filled) == 1 and len(above) < _DEEPEST:
        child = folders.read(filled[0])
        if _has_structure(child) and (not child.pictures or _header(child)):
            plan = _descend(folders, child, (*above, folder))
            return _with_ignored(plan, children, child)
    return Plan({"train": Place(folder, above, None)}, (), guessed=bool(above))


def _with_ignored(plan: Plan, children: list[str], taken: Folder) -> Plan:
    """The plan of one of the folders beside each other, in which the others are ignored."""
    ignored = tuple(name_of(path) for path in children if path != taken.path)
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
    paths = {name_of(path): path for path in children}
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
            raise InputError(
                f"expected one folder of {PURPOSES[split]} images in {folder.path!r}, got "
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
        splits = listed(sorted(name for names in found.values() for name in names))
        raise InputError(
            f"expected either splits or classes in {folder.path!r}, got {splits}, which could be "
            f"splits, beside {listed(classes)}, as if all were classes; rename or move some"
        )
    return {split: folders.read(paths[found[split][0]]) for split in SPLITS if split in found}


def _inside(folders: Folders, folder: Folder, above: tuple[Folder, ...]) -> Place:
    """The place of a split in its folder, or in the only one within it if that repeats its name."""
    header = _header(folder)
    children = children_of(folders, folder, above)
    if header is None and not folder.pictures and len(children) == 1:
        child = folders.read(children[0])
        if is_wrapper(child.name, folder.name) and _has_structure(child):
            return _inside(folders, child, (*above, folder))
    return Place(folder, above, header)


def _holds_splits(folders: Folders, folder: Folder, above: tuple[Folder, ...]) -> bool:
    """Whether all folders in a folder are splits again."""
    children = children_of(folders, folder, above)
    clear = names_of_splits(map(name_of, children))
    return len(children) > 1 and all(
        name_of(path) in clear and _has_structure(folders.read(path)) for path in children
    )


def check_train(splits: Collection[SplitName], root: str) -> None:
    """Require training images beside those of other splits."""
    if len(splits) > 1 and "train" not in splits:
        names = " and ".join(PURPOSES[split] for split in splits)
        raise InputError(f"expected training images in {root!r}, got only {names} images")


def _check_place(folders: Folders, place: Place) -> None:
    """Refuse a place with fewer than two class folders, or with splits among them."""
    if place.header is not None:
        return
    folder = place.folder
    children = children_of(folders, folder, place.above)
    if len(children) < 2:
        if folder.labels is not None and not children:
            raise InputError(header_problem(joined(folder.path, folder.labels)))
        raise InputError(too_few_classes(folder, [name_of(path) for path in children]))
    # A few tell, and reading all takes long in folders of a thousand classes.
    for path in children[:_LOOKED_INTO]:
        inner = {
            name_of(inside) for inside in children_of(folders, folders.read(path), place.above)
        }
        splits = names_of_splits(inner)
        if len(splits) > 1 and not folders.read(path).pictures:
            raise InputError(
                "expected <data_dir>/train/<class>/* and <data_dir>/test/<class>/*, or class "
                f"folders, got {listed(sorted(splits))} in the class folder {path!r}"
            )
    misplaced = [
        name_of(path)
        for path in children
        if says_only_split(name_of(path))
        and not folders.read(path).pictures
        and _has_structure(folders.read(path))
    ]
    if misplaced:
        raise InputError(
            "expected <data_dir>/train/<class>/* and <data_dir>/test/<class>/*, "
            f"got {listed(misplaced)} among the classes of {folder.path!r}"
        )


def too_few_classes(folder: Folder, names: list[str]) -> str:
    """The message for a folder whose class folders are only these."""
    found = listed(names) or "none"
    if folder.pictures:
        found += f", and {counted(len(folder.pictures), 'image outside class folders')}"
    return f"expected at least two class folders in {folder.path!r}, got {found}"


def children_of(folders: Folders, folder: Folder, above: tuple[Folder, ...]) -> list[str]:
    """Paths of the folders in a folder, without links to those above it."""
    return folders.children(folder, [outer.id for outer in above])


def _has_structure(folder: Folder) -> bool:
    """Whether a folder has folders, or a file of labels."""
    return bool(folder.folders or folder.links or _header(folder))


def _header(folder: Folder) -> Header | None:
    return None if folder.labels is None else read_header(joined(folder.path, folder.labels))


def says_only_split(name: str) -> bool:
    """Whether a name says a split and nothing else."""
    words = split_words(name)
    return words is not None and not words.rest


def _first(count: int, items: Iterable[str]) -> list[str]:
    return list(islice(items, count))


def name_of(path: str) -> str:
    """The last part of a path."""
    return Path(path).name


def _names(found: Iterable[Folder]) -> str:
    return listed(sorted(folder.name for folder in found))
