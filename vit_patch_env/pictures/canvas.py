"""Text, lines and colours on a picture; Pillow is imported when the first one is drawn."""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""(height, width, 3), RGB."""

Colour = tuple[int, int, int]

BLACK: Colour = (17, 17, 17)
GREY: Colour = (90, 90, 90)
LIGHT: Colour = (216, 216, 216)
# Okabe and Ito's, which colour-blind readers can distinguish.
BLUE: Colour = (0, 114, 178)
ORANGE: Colour = (230, 159, 0)
VERMILLION: Colour = (213, 94, 0)
GREEN: Colour = (0, 158, 115)

TEXT = 21
"""Height of text in pixels, which can be read at half the size."""


class Box(NamedTuple):
    """A rectangle in pixels: its top left corner, width and height."""

    x: int
    y: int
    width: int
    height: int


class Canvas:
    """A white picture to draw on.

    Args:
        width: in pixels.
        height: in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw

        self._image = Image.new("RGB", (width, height), "white")
        self._draw = ImageDraw.Draw(self._image)

    def picture(self) -> Picture:
        """What was drawn."""
        return np.array(self._image)

    def paste(self, picture: Picture, x: int, y: int) -> None:
        """Draw a picture with its top left corner at (x, y)."""
        from PIL import Image

        self._image.paste(Image.fromarray(picture), (x, y))

    def text(
        self,
        x: int,
        y: int,
        text: str,
        *,
        width: int,
        colour: Colour = BLACK,
        size: int = TEXT,
        bold: bool = False,
        align: str = "left",
    ) -> int:
        """Draw a line of text, shortened to a width; the width that it has.

        Args:
            x: left end of the line, of `width` pixels.
            y: its top.
            text: without line breaks.
            width: in pixels.
            colour: of the text.
            size: height of the font in pixels.
            bold: whether it is bold.
            align: `left`, `centre` or `right`.
        """
        written = _written(text, width, size, bold)
        length: int = written.width
        start = {"left": 0, "centre": (width - length) // 2, "right": width - length}[align]
        self._image.paste(colour, (x + start, y), written)
        return length

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: int = 2) -> None:
        """Draw a line through points (x, y)."""
        self._draw.line(list(points), fill=colour, width=width)

    def fill(self, box: Box, colour: Colour) -> None:
        """Fill a rectangle."""
        x, y, width, height = box
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)

    def frame(self, box: Box, colour: Colour = LIGHT) -> None:
        """Draw a rectangle's outline, one pixel around it."""
        x, y, width, height = box
        self._draw.rectangle((x - 1, y - 1, x + width, y + height), outline=colour)


@cache
def _font(size: int, bold: bool) -> Any:
    """DejaVu Sans, which matplotlib comes with, as it has the letters of many languages."""
    import matplotlib as mpl
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/{name}", size)


_MAX_LETTERS = 200
"""Of a text that is measured: more do not fit in any picture."""


@lru_cache(maxsize=1024)
def _written(text: str, width: int, size: int, bold: bool) -> Any:
    """A line of text in grey levels, no wider than a width: an image that masks a colour.

    Remembered, as the same words are in every picture.
    """
    from PIL import Image, ImageDraw

    face = _font(size, bold)
    # What the font has no sign for, such as a line break, would be a box.
    text = "".join(letter if letter.isprintable() else " " for letter in text[:_MAX_LETTERS])
    length, shorter = face.getlength(text), text
    while length > width and shorter:
        # By what is too much, in letters of the mean width, but by one at least.
        shorter = shorter[: min(int(len(shorter) * width / length), len(shorter) - 1)].rstrip()
        text = f"{shorter}…"
        length = face.getlength(text)
    image = Image.new("L", (max(1, math.ceil(length)), math.ceil(1.3 * size)))
    ImageDraw.Draw(image).text((0, 0), text, fill=255, font=face)
    return image
