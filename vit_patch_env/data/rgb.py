"""Pillow's images as upright, opaque RGB, whatever their orientation, transparency and depth."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from vit_patch_env.checks import InputError

BACKGROUND = (255, 255, 255)
"""The colour behind transparent pixels and around padded pictures: white."""

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes pictures upright, by the orientation in their EXIF data."""

_METADATA = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""Entries of Pillow's `info` that may contain the orientation."""

_GREY_FACTORS = {"L;2": 85, "L;4": 17}
"""Levels from one value to the next in PNGs of 2 and 4 bits, by Pillow's name of their layout."""


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright picture of mode RGB; `image` itself if nothing has to change.

    The orientation in EXIF data is applied. Transparent pixels, whether by an alpha channel, a
    palette or a transparent colour, are composed on `BACKGROUND`. 16-bit grey values are scaled to
    8 bits.

    Args:
        image: opened by Pillow, or in memory.

    Raises:
        ValueError: for 32-bit pixels, and 16-bit pixels that may be negative: their range is
            unknown.
        OSError: if a file's pixels cannot be decoded.
    """
    with without_warnings():
        layout = _layout(image)
        image.load()
        _correct_transparency(image, layout)
        if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
            rgb = _grey(image).convert("RGB")
        elif image.has_transparency_data:
            rgb = _composed(image)
        else:
            rgb = image if image.mode == "RGB" else image.convert("RGB")
        transpose = _TRANSPOSES.get(orientation_of(image))
        return rgb if transpose is None else rgb.transpose(transpose)


class _InReadingThread(threading.local):
    """Matches the text of every warning of a thread that is reading a picture."""

    reading = False

    def match(self, _text: str) -> bool:
        return self.reading


_IN_READING_THREAD = _InReadingThread()
_FILTERS: list[Any] = [
    ("ignore", _IN_READING_THREAD, category, None, 0)
    for category in (UserWarning, Image.DecompressionBombWarning)
]


@contextmanager
def without_warnings() -> Iterator[None]:
    """Hide Pillow's warnings of this thread, such as those of damaged metadata.

    `warnings.catch_warnings` replaces the filters of all threads, and two that overlap restore
    them wrongly. These filters apply to no other thread, and stay.
    """
    filters = cast("list[Any]", warnings.filters)
    # No lock, which processes that are forked meanwhile would inherit: each step is atomic, and
    # filters that two threads insert twice do no harm.
    if filters[: len(_FILTERS)] != _FILTERS:
        for own in reversed(_FILTERS):
            with suppress(ValueError):  # not in the list
                filters.remove(own)
            filters.insert(0, own)
    outer = _IN_READING_THREAD.reading
    _IN_READING_THREAD.reading = True
    try:
        yield
    finally:
        _IN_READING_THREAD.reading = outer


def orientation_of(image: Image.Image) -> Any:
    """The orientation in a loaded picture's metadata; 1, upright, if there is none."""
    if not (hasattr(image, "tag_v2") or image.info.keys() & _METADATA):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return orientation if orientation in _TRANSPOSES else 1
    except Exception:  # damaged metadata of a picture that can be read
        return 1


def _layout(image: Image.Image) -> str:
    """Pillow's name of the layout of a PNG's pixels; empty if they have been decoded."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0][3]) if tiles and image.format == "PNG" else ""


def _correct_transparency(image: Image.Image, layout: str) -> None:
    """Scale a PNG's transparent colour as Pillow scales its pixels to 8 bits."""
    transparency = image.info.get("transparency")
    if layout in _GREY_FACTORS and isinstance(transparency, int):
        image.info["transparency"] = transparency * _GREY_FACTORS[layout]
    elif layout == "RGB;16B" and isinstance(transparency, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparency)


def _composed(image: Image.Image) -> Image.Image:
    """A partly transparent picture on the background."""
    if image.mode == "La":
        image = image.convert("LA")  # directly to RGBA, Pillow would drop the transparency
    rgba = image.convert("RGBA")
    rgb = Image.new("RGB", image.size, BACKGROUND)
    rgb.paste(rgba, mask=rgba)
    return rgb


class _GreyRange(NamedTuple):
    """Pixel values in [0, white], or in [white, 0] with black at the top."""

    highest: int
    inverted: bool


def _grey(image: Image.Image) -> Image.Image:
    """A grey picture of more than 8 bits, in 8 bits, on the background."""
    grey_range = _grey_range(image)
    values = np.asarray(image)
    if image.mode == "I":
        values = values.clip(0, grey_range.highest)
    grey = _levels(*grey_range)[values]
    transparency = image.info.get("transparency")
    if isinstance(transparency, int):
        grey[values == transparency] = BACKGROUND[0]
    return Image.fromarray(grey)


def _grey_range(image: Image.Image) -> _GreyRange:
    if image.mode == "F" or (image.mode == "I" and image.format not in {"PNG", "PPM"}):
        raise InputError("32-bit pixels whose range is unknown")
    if image.format == "FITS":  # signed, but read by Pillow as if they were not
        raise InputError("16-bit pixels whose range is unknown")
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    return _GreyRange(2**bits - 1, tags.get(ExifTags.Base.PhotometricInterpretation) == 0)


@lru_cache(4)
def _levels(highest: int, inverted: bool) -> NDArray[np.uint8]:
    """For each 16-bit value, the nearest of 256 levels."""
    values = np.arange(1 << 16).clip(0, highest)
    levels = ((2 * 255 * values + highest) // (2 * highest)).astype(np.uint8)
    return 255 - levels if inverted else levels
