"""The picture of one image: the patches that an agent keeps, and what a ViT predicts with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.pictures.canvas import BLUE, GREY, LIGHT, TEXT, Box, Canvas, Picture
from vit_patch_env.pictures.charts import draw_heat_map
from vit_patch_env.pictures.frame import WIDTH
from vit_patch_env.pictures.patches import image_size, mark_dropped, resized

_MARGIN = 16
_GAP = 20
_ROW = TEXT + 8
_COLUMN = (WIDTH - 2 * _MARGIN - 2 * _GAP) // 3
_TOP = 44 + _ROW + 4

Chances = Sequence[tuple[str, float]]
"""Classes and their probabilities, the most probable one first."""


@dataclass(frozen=True)
class KeptPatches:
    """What a picture of an image's kept patches shows.

    Attributes:
        title: of the image.
        image: (channels, height, width) uint8.
        patch_mask: (n_patches,), True where a patch is kept.
        grid: rows and columns of patches.
        with_all: what the ViT predicts with all patches.
        with_kept: what it predicts with the kept ones.
        values: the observation, (n_patches,); None if nothing is observed.
        observation: what is observed, in words.
    """

    title: str
    image: NDArray[np.uint8]
    patch_mask: NDArray[np.bool_]
    grid: tuple[int, int]
    with_all: Chances
    with_kept: Chances
    values: NDArray[np.float32] | None
    observation: str


def draw_kept(kept: KeptPatches) -> Picture:
    """The image, its kept patches and the observation beside each other: (height, WIDTH, 3)."""
    _, image_height, image_width = kept.image.shape
    width, height = image_size((image_height, image_width), kept.grid, _COLUMN, 2 * _COLUMN)
    n_classes = max(len(kept.with_all), len(kept.with_kept))
    total = _TOP + max(height, 2 * _ROW) + 8 + n_classes * (_ROW + 10) + 8
    canvas = Canvas(WIDTH, total + total % 2)
    canvas.text(_MARGIN, 8, kept.title, width=WIDTH - 2 * _MARGIN, size=26, bold=True)
    picture = resized(kept.image, width, height)
    marked = mark_dropped(picture, kept.patch_mask, kept.grid)
    n_kept, n_patches = int(kept.patch_mask.sum()), len(kept.patch_mask)
    for place, (title, drawn, chances) in enumerate(
        (
            (f"All {n_patches:,} patches", picture, kept.with_all),
            (f"{n_kept:,} kept, striped dropped", marked, kept.with_kept),
        )
    ):
        x = _MARGIN + place * (_COLUMN + _GAP)
        canvas.text(x, 44, title, width=_COLUMN, size=20)
        canvas.paste(drawn, x, _TOP)
        # As wide as the titles, since the names of classes do not fit below a narrow picture.
        _draw_chances(canvas, Box(x, _TOP + height + 8, _COLUMN, 0), chances)
    x = _MARGIN + 2 * (_COLUMN + _GAP)
    canvas.text(x, 44, kept.observation, width=_COLUMN, size=20)
    if kept.values is not None:
        cells = kept.values.reshape(kept.grid)
        draw_heat_map(canvas, Box(x, _TOP, _COLUMN, max(height, 2 * _ROW)), cells)
    return canvas.picture()


def _draw_chances(canvas: Canvas, box: Box, chances: Chances) -> None:
    """Each class with its probability, and a bar below it."""
    for index, (name, share) in enumerate(chances):
        y = box.y + index * (_ROW + 10)
        known = np.isfinite(share)
        percent = f"{100 * share:.0f} %" if known else "-"
        taken = canvas.text(box.x, y, percent, width=box.width, align="right", colour=GREY)
        canvas.text(box.x, y, name, width=max(box.width - taken - 8, 1), bold=not index)
        canvas.fill(Box(box.x, y + TEXT + 6, box.width, 6), LIGHT)
        if known and share > 0:
            canvas.fill(Box(box.x, y + TEXT + 6, max(1, round(box.width * share)), 6), BLUE)
