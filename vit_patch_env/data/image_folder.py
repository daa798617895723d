"""Folders of images."""

from pathlib import Path

import numpy as np

from vit_patch_env.data.encoded import Pictures
from vit_patch_env.data.layouts import find_layout
from vit_patch_env.data.picture_source import PictureSource
from vit_patch_env.data.pictures import SUFFIXES
from vit_patch_env.data.resize import Form
from vit_patch_env.data.sources import Parts


def folder_source(
    root: Path, form: Form, cache: Path, *, skip_corrupt: bool = False
) -> PictureSource:
    """A source of the pictures in folders.

    Args:
        root: of the folders, see `find_layout`.
        form: what pictures become.
        cache: folder for decoded images.
        skip_corrupt: leave out files that cannot be decoded, with a warning that names them.

    Raises:
        ValueError: for folders from which no splits can be made.
    """
    layout = find_layout(root, SUFFIXES)
    splits = layout.train, layout.val, layout.test
    listings = [part for part in splits if part is not None]
    paths = [path for listing in listings for path in listing.paths]
    return PictureSource(
        Pictures([("the folder", paths)], root, complete=True),
        np.concatenate([listing.labels for listing in listings]),
        Parts.in_turn(*(len(part.paths) if part else None for part in splits)),
        layout.classes,
        form,
        cache,
        skip_corrupt=skip_corrupt,
        flip=True,
        notes=layout.notes,
    )
