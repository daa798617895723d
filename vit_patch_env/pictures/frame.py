"""The picture of a training step: its images and what the agent did with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.pictures.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    TEXT,
    VERMILLION,
    Box,
    Canvas,
    Colour,
    Picture,
)
from vit_patch_env.pictures.charts import draw_curve, draw_heat_map, number
from vit_patch_env.pictures.patches import image_size, mark_dropped, resized
from vit_patch_env.pictures.tokens import LINE, columns_of, draw_tokens, n_lines

WIDTH, HEIGHT = 960, 816
"""Of every frame, in pixels: even numbers, and multiples of 16, as video encoders need them."""

_MARGIN = 16
_INSIDE = WIDTH - 2 * _MARGIN
_ROW = TEXT + 6
_CAPTION = 2 * _ROW + 4
_IMAGES = Box(_MARGIN, 62, _INSIDE, 516)
_CHARTS = Box(_MARGIN, 622, _INSIDE, HEIGHT - 622 - 12)
_HEAT_WIDTH = 300
_GAP = 14
_NARROWEST = 150
"""Width of an image's caption, in pixels."""

_SMALLEST_PATCH = 12
"""Width of a patch in pixels, which can be seen at half the size."""

RIGHT, WRONG = "✓", "✗"
COLOURS: tuple[Colour, ...] = (GREEN, BLUE, VERMILLION)


class Curve(NamedTuple):
    """A value over the steps of a run.

    Attributes:
        name: of the value.
        now: the value in the last step, in words.
        values: so far.
    """

    name: str
    now: str
    values: Sequence[float]


@dataclass(frozen=True)
class Frame:
    """What a picture of a training step shows.

    Attributes:
        images: (n, channels, height, width) uint8; empty if there are texts.
        texts: the tokens of each; empty if there are images.
        patch_mask: True where a patch was kept, (n_patches,), or (n, n_patches) where images
            differ.
        grid: rows and columns of patches.
        truths: the true class of each image, in words; empty if it is not known.
        predictions: the class that the model predicts; empty if it is not known.
        right: whether each prediction is right.
        values: the observation, (n_patches,); None if nothing is observed.
        observation: what is observed, in words.
        title: what the step is, in words.
        progress: share of the budget used, in [0, 1].
        curves: at most three.
    """

    images: NDArray[np.uint8]
    patch_mask: NDArray[np.bool_]
    grid: tuple[int, int]
    texts: Sequence[Sequence[str]] = ()
    truths: Sequence[str] = ()
    predictions: Sequence[str] = ()
    right: Sequence[bool] = ()
    values: NDArray[np.float32] | None = None
    observation: str = ""
    title: str = ""
    progress: float = 0.0
    curves: Sequence[Curve] = ()

    @property
    def n_patches(self) -> int:
        """Patches of an image, or tokens of a text."""
        return int(self.patch_mask.shape[-1])

    def mask_of(self, index: int) -> NDArray[np.bool_]:
        """(n_patches,) of an image or text."""
        return self.patch_mask if self.patch_mask.ndim == 1 else self.patch_mask[index]


def draw_frame(frame: Frame) -> Picture:
    """The picture of a step, (HEIGHT, WIDTH, 3), which can be read at half its size."""
    canvas = Canvas(WIDTH, HEIGHT)
    _draw_title(canvas, frame)
    if frame.texts:
        _draw_texts(canvas, frame)
    else:
        draw_images(canvas, _IMAGES, frame)
    _draw_legend(canvas, frame)
    _draw_charts(canvas, frame)
    return canvas.picture()


def _draw_title(canvas: Canvas, frame: Frame) -> None:
    """The step, and a bar of the share of the budget used."""
    used = f"{int(100 * frame.progress)} % of the budget"
    half = _INSIDE // 2
    canvas.text(_MARGIN, 8, frame.title, width=half + 80, size=26, bold=True)
    canvas.text(_MARGIN + half + 80, 8, used, width=half - 80, size=26, align="right")
    canvas.fill(Box(_MARGIN, 44, _INSIDE, 8), LIGHT)
    if frame.progress > 0:
        canvas.fill(Box(_MARGIN, 44, max(2, round(_INSIDE * frame.progress)), 8), BLUE)


def draw_images(canvas: Canvas, box: Box, frame: Frame) -> None:
    """Draw a frame's images and their captions as large as they fit into a box.

    Where patches would be too small to be seen, the last images are left out.
    """
    for count in range(len(frame.images), 0, -1):
        columns = max(
            range(1, min(count, box.width // _NARROWEST) + 1),
            key=lambda n: _fitting(box, frame, count, n),
        )
        width, height = _fitting(box, frame, count, columns)
        if width / frame.grid[1] >= _SMALLEST_PATCH:
            break
    cell_width, cell_height = _cell(box, count, columns)
    for index, image in enumerate(frame.images[:count]):
        picture = mark_dropped(resized(image, width, height), frame.mask_of(index), frame.grid)
        row, column = divmod(index, columns)
        x = box.x + column * (cell_width + _GAP)
        y = box.y + row * (cell_height + _CAPTION) + (cell_height - height) // 2
        canvas.paste(picture, x + (cell_width - width) // 2, y)
        _draw_caption(canvas, Box(x, y + height + 2, cell_width, _CAPTION), frame, index)


def _fitting(box: Box, frame: Frame, count: int, columns: int) -> tuple[int, int]:
    """Width and height of each of `count` images in so many columns."""
    _, _, height, width = frame.images.shape
    return image_size((height, width), frame.grid, *_cell(box, count, columns))


def _cell(box: Box, count: int, columns: int) -> tuple[int, int]:
    """Width and height of each of `count` images in so many columns, without their captions."""
    rows = -(-count // columns)
    return (box.width - (columns - 1) * _GAP) // columns, box.height // rows - _CAPTION


def _draw_caption(canvas: Canvas, box: Box, frame: Frame, index: int) -> None:
    """The true class, and below it the prediction, with a sign and a colour if it is right."""
    if frame.truths:
        canvas.text(box.x, box.y, frame.truths[index], width=box.width, align="centre")
    if frame.predictions:
        right = frame.right[index]
        text = f"{RIGHT if right else WRONG} {frame.predictions[index]}"
        colour = BLUE if right else VERMILLION
        canvas.text(box.x, box.y + _ROW - 2, text, width=box.width, align="centre", colour=colour)


def _draw_texts(canvas: Canvas, frame: Frame) -> None:
    """Draw as many texts as fit, at least one."""
    lines = n_lines(frame.n_patches)
    height = LINE * lines + _ROW + 10
    count = min(len(frame.texts), max(1, _IMAGES.height // height))
    height = min(height, _IMAGES.height)
    for index, words in enumerate(frame.texts[:count]):
        y = _IMAGES.y + index * height
        space = Box(_IMAGES.x, y + _ROW, _IMAGES.width, height - _ROW - 6)
        half = _IMAGES.width // 2
        if frame.truths:
            canvas.text(space.x, y, frame.truths[index], width=half - 20, bold=True)
        if frame.predictions:
            right = frame.right[index]
            text = f"{RIGHT if right else WRONG} {frame.predictions[index]}"
            colour = BLUE if right else VERMILLION
            canvas.text(space.x + half, y, text, width=half, colour=colour)
        draw_tokens(canvas, space, words, frame.mask_of(index))


def _draw_legend(canvas: Canvas, frame: Frame) -> None:
    parts = []
    if frame.truths:
        parts.append("true class")
    if frame.predictions:
        parts.append(f"prediction ({RIGHT} right, {WRONG} wrong)")
    dropped = "tokens struck through" if frame.texts else "striped patches"
    parts.append(f"{dropped} are dropped")
    y = _IMAGES.y + _IMAGES.height + 8
    canvas.text(_MARGIN, y, " · ".join(parts), width=_INSIDE, colour=GREY, align="centre")


def _draw_charts(canvas: Canvas, frame: Frame) -> None:
    """The heat map of the observation, and the curves."""
    box = _CHARTS
    top = 2 * _ROW
    canvas.text(box.x, box.y, "Observation", width=_HEAT_WIDTH, bold=True)
    canvas.text(box.x, box.y + _ROW - 2, frame.observation, width=_HEAT_WIDTH, size=19, colour=GREY)
    if frame.values is not None:
        cells = columns_of(frame.values) if frame.texts else frame.values.reshape(frame.grid)
        draw_heat_map(canvas, Box(box.x, box.y + top, _HEAT_WIDTH, box.height - top), cells)
    x = box.x + _HEAT_WIDTH + _GAP
    count = max(len(frame.curves), 1)
    width = (box.x + box.width - x - (count - 1) * _GAP) // count
    for curve, colour in zip(frame.curves, COLOURS, strict=False):
        canvas.text(x, box.y, curve.name, width=width, bold=True)
        canvas.text(x, box.y + _ROW - 2, curve.now, width=width, colour=BLACK)
        space = Box(x, box.y + top, width, box.height - top - _ROW)
        limits = draw_curve(canvas, space, curve.values, colour)
        if limits is not None:
            text = " to ".join(map(number, limits)) if limits[0] < limits[1] else number(limits[0])
            y = box.y + box.height - _ROW + 2
            canvas.text(x, y, text, width=width, colour=GREY, size=19)
        x += width + _GAP
