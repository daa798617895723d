"""Picture files as RGB images of one shape, whatever their format, size, orientation and depth."""

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vit_patch_env.checks import InputError, check_choice
from vit_patch_env.data.rgb import BACKGROUND, orientation_of, to_rgb, without_warnings
from vit_patch_env.names import InterpolationName, ResizeName
from vit_patch_env.patches.grid import ImageSize, height_width
from vit_patch_env.system.shown import escaped

LARGEST_ASPECT = 100
"""Ratio of the longer to the shorter side of the most elongated picture that is read."""

_LEFT_OUT = {
    "EPS",  # decoded by Ghostscript, another program
    "BUFR", "GRIB", "HDF5",  # recognised, but not decoded without a plugin
    "MPEG",  # videos, also only recognised
    "IPTC",  # metadata; what it contains is opened in any format, EPS as well
    *(() if sys.platform == "win32" else ("WMF",)),  # drawn by Windows
}  # fmt: skip

# Several threads read pictures, and importing Pillow's plugins is not made for that.
Image.preinit()
Image.init()

SUFFIXES = frozenset(
    suffix
    for suffix, name in Image.registered_extensions().items()
    if (name in Image.ID and name not in _LEFT_OUT) or name == "MPO"  # which is opened as JPEG
)
"""Suffixes of the formats that are read, such as ".jpg", in lower case."""

_LAST_COLUMN_FIRST, _LAST_ROW_FIRST, _COLUMNS_AS_ROWS = {2, 3, 6, 7}, {3, 4, 7, 8}, {5, 6, 7, 8}
"""Orientations for which an upright picture begins with what was stored last, or is transposed."""


def read_picture(
    content: str | bytes,
    image_size: ImageSize,
    resize: ResizeName,
    name: str | None = None,
    interpolation: InterpolationName = "bilinear",
) -> NDArray[np.uint8]:
    """A decoded picture, (3, height, width), contiguous.

    It is upright, in RGB (`to_rgb`), and the first of an animation's. It is resized with
    antialiasing; a picture of the right size remains as it is. JPEGs are decoded at a half, a
    quarter or an eighth of their size where that is at least twice the size needed. May be called
    in several threads, which decode and resize at the same time.

    Args:
        content: the path of a file, or what such a file contains. It determines the format, not
            the suffix of a path.
        image_size: height and width, in pixels; one number for squares.
        resize: `crop` resizes until both sides are covered and keeps the centre, `stretch` changes
            the aspect ratio, and `pad` resizes until both sides fit and adds borders in
            `BACKGROUND`.
        name: in messages, safe to print; by default the path.
        interpolation: of resizing, `bilinear` or `bicubic`.

    Raises:
        ValueError: "expected a readable image, got <name>: <reason>", in one line, for what is not
            a regular file or not a picture, and for one that is damaged, has more than
            Image.MAX_IMAGE_PIXELS pixels, an aspect ratio above `LARGEST_ASPECT`, or 32-bit pixels.
        MemoryError: if there is not enough memory for the picture.
    """
    check_choice(get_args(ResizeName), resize=resize)
    height, width = height_width(image_size)
    target = width, height  # in Pillow's order
    try:
        with without_warnings(), _opened(content) as image:
            part = image.draft(None, _draft_size(image.size, target, resize))
            rgb = to_rgb(image)
            _check_size(rgb.size)  # again, as icons, for example, may claim another one
            region = (
                _region(rgb.size, part[1], orientation_of(image)) if part else (0, 0, *rgb.size)
            )
            resampling = Image.Resampling[interpolation.upper()]
            return _pixels(_resized(rgb, region, target, resize, resampling))
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can make Pillow raise anything
        shown = name or (escaped(content) if isinstance(content, str) else "bytes")
        raise InputError(f"expected a readable image, got {shown}: {_reason(error)}") from error


class _File(io.BufferedReader):
    """A file for reading, whose reads need no more memory than its size.

    A damaged file may claim that its parts have gigabytes, which Python allocates before it reads.
    """

    def __init__(self, path: str) -> None:
        super().__init__(io.FileIO(path))
        self.n_bytes = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes; all that remain if it is None or negative."""
        return super().read(None if size is None else min(size, self.n_bytes))


def _file(path: str) -> _File:
    """A regular file; others are not opened."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  (faster than Path.stat)
        raise InputError("not a regular file")
    return _File(path)


@contextmanager
def _opened(content: str | bytes) -> Iterator[Image.Image]:
    """A picture whose pixels are not decoded yet, in a file of this path or of this content."""
    suffix = os.path.splitext(content)[1].lower() if isinstance(content, str) else ""  # noqa: PTH122
    with _file(content) if isinstance(content, str) else io.BytesIO(content) as file:
        try:
            image = Image.open(file, formats=_formats(suffix, len(Image.ID)))
        except MemoryError as error:  # for what the file claims to contain beside pixels
            raise InputError("its header needs more memory than there is") from error
        _check_size(image.size)
        yield image


@lru_cache(1024)
def _formats(suffix: str, _n_registered: int) -> tuple[str, ...]:
    """Formats to try, those with the suffix first; a program may register more of them."""
    expected = Image.registered_extensions().get(suffix)
    formats = [name for name in Image.ID if name not in _LEFT_OUT]
    return tuple(sorted(formats, key=lambda name: name != expected))


def _check_size(size: tuple[int, int]) -> None:
    """Refuse empty, very large and very elongated pictures."""
    width, height = size
    if min(size) < 1:
        raise InputError(f"a picture of {width} x {height} pixels")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise InputError(
            f"Image size ({width * height} pixels) exceeds limit of {limit} pixels, could be "
            "decompression bomb"
        )
    if max(size) > LARGEST_ASPECT * min(size):
        raise InputError(f"{width} x {height} pixels, an aspect ratio above {LARGEST_ASPECT}:1")


def _reason(error: Exception) -> str:
    """An error in one line, without the name of the file."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a format that Pillow decodes"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return escaped(text or type(error).__name__)


def _scaled_size(
    size: tuple[float, float], target: tuple[int, int], resize: ResizeName
) -> tuple[int, int]:
    """Width and height of a whole picture once resized, rounded as in torchvision."""
    if resize == "stretch":
        return target
    # The side that is exactly as long as wanted; the other one is longer, or shorter with `pad`.
    is_higher = size[0] * target[1] <= size[1] * target[0]
    exact = int(is_higher != (resize == "crop"))
    least = target[1 - exact] if resize == "crop" else 1
    other = max(least, int(target[exact] * size[1 - exact] / size[exact]))
    return (other, target[1]) if exact else (target[0], other)


def _draft_size(
    size: tuple[int, int], target: tuple[int, int], resize: ResizeName
) -> tuple[int, int]:
    """The smallest size at which a JPEG may be decoded: twice the size needed."""
    width, height = _scaled_size(size, target, resize)
    return 2 * width, 2 * height


def _region(
    size: tuple[int, int], part: tuple[int, int, float, float], orientation: int
) -> tuple[float, float, float, float]:
    """The box in an upright draft that the picture covers.

    A draft has whole pixels: its last column and row may be partly beyond the picture.

    Args:
        size: of the upright draft.
        part: the box that the picture covers in the draft as it is stored.
        orientation: of the draft as it is stored.
    """
    width, height = part[2:]
    if orientation in _COLUMNS_AS_ROWS:
        width, height = height, width
    left = size[0] - width if orientation in _LAST_COLUMN_FIRST else 0
    top = size[1] - height if orientation in _LAST_ROW_FIRST else 0
    return left, top, left + width, top + height


def _resized(
    image: Image.Image,
    region: tuple[float, float, float, float],
    target: tuple[int, int],
    resize: ResizeName,
    resampling: Image.Resampling,
) -> Image.Image:
    """What is made of an image's region: an image of the target's width and height."""
    left, top, right, bottom = region
    scaled = _scaled_size((right - left, bottom - top), target, resize)
    shown = min(scaled[0], target[0]), min(scaled[1], target[1])
    # Only what will be seen is resized, as the cropped part of a long picture may be large.
    x, y = (round((whole - part) / 2) for whole, part in zip(scaled, shown, strict=True))
    x_scale, y_scale = (right - left) / scaled[0], (bottom - top) / scaled[1]
    box = (
        left + x * x_scale,
        top + y * y_scale,
        min(left + (x + shown[0]) * x_scale, right),
        min(top + (y + shown[1]) * y_scale, bottom),
    )
    part = image.resize(shown, resampling, box)
    if shown == target:
        return part
    padded = Image.new("RGB", target, BACKGROUND)
    padded.paste(part, ((target[0] - shown[0]) // 2, (target[1] - shown[1]) // 2))
    return padded


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """An RGB image's pixels, (3, height, width), contiguous."""
    rows = np.frombuffer(image.tobytes("raw", "RGB;L"), np.uint8)  # each row channel by channel
    return np.ascontiguousarray(rows.reshape(image.height, 3, image.width).transpose(1, 0, 2))
