"""Images whose dropped patches are marked, whatever their brightness."""

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.pictures.canvas import ORANGE, Colour, Picture

_STRIPE: Colour = (64, 70, 108)
_TINT: Colour = (150, 153, 166)
"""What is added to a quarter of a dropped patch's colours."""

_SMALLEST_WITH_LINES = 6
"""Pixels of a patch from which on lines are drawn between patches."""


def image_size(
    image: tuple[int, int], grid: tuple[int, int], width: int, height: int
) -> tuple[int, int]:
    """Width and height of the largest picture of an image that fits, in whole pixels per patch.

    Args:
        image: height and width of the image.
        grid: rows and columns of its patches.
        width: that the picture must not exceed.
        height: that it must not exceed.
    """
    rows, columns = grid
    across, down = image[1] / columns, image[0] / rows  # of a patch
    scale = min(width / image[1], height / image[0])
    if min(across, down) * scale < 1:  # patches smaller than a pixel
        return max(1, int(image[1] * scale)), max(1, int(image[0] * scale))
    return int(across * scale) * columns, int(down * scale) * rows


def resized(image: NDArray[np.uint8], width: int, height: int) -> Picture:
    """An image (channels, height, width) as a picture of another size; grey unless RGB."""
    from PIL import Image

    if len(image) == 3:
        picture = np.ascontiguousarray(image.transpose(1, 2, 0))
    else:
        grey = image[0] if len(image) == 1 else image.mean(axis=0).astype(np.uint8)
        picture = np.repeat(grey[:, :, None], 3, axis=2)
    enlarges = width > picture.shape[1]
    how = Image.Resampling.NEAREST if enlarges else Image.Resampling.BOX
    shown = Image.fromarray(picture).resize((width, height), how, reducing_gap=2.0)
    return np.asarray(shown)


def mark_dropped(picture: Picture, patch_mask: NDArray[np.bool_], grid: tuple[int, int]) -> Picture:
    """A picture with dropped patches pale, striped and outlined: the same shape.

    Kept patches are as they are, but for a line between patches. A dropped black patch becomes
    grey-blue with dark stripes, as a dropped white one does, only darker.

    Args:
        picture: (height, width, 3).
        patch_mask: (n_patches,), True where a patch is kept.
        grid: rows and columns of patches.
    """
    height, width = picture.shape[:2]
    row = np.arange(height) * grid[0] // height  # of each pixel
    column = np.arange(width) * grid[1] // width
    kept = patch_mask.reshape(grid)[row[:, None], column]  # (height, width)
    size = min(height // grid[0], width // grid[1])
    # Of each pixel: a power of 2 to divide by, and what to add.
    shift, added = np.zeros(kept.shape, dtype=np.uint8), np.zeros((*kept.shape, 3), dtype=np.uint8)
    if size >= _SMALLEST_WITH_LINES:
        starts = (np.diff(row, prepend=0) > 0)[:, None] | (np.diff(column, prepend=0) > 0)
        shift[starts], added[starts] = 1, 64
    shift[~kept], added[~kept] = 2, _TINT
    for pixels, colour in (
        (_stripes(height, width, size) & ~kept, _STRIPE),
        (_edges(kept, size), ORANGE),
    ):
        shift[pixels], added[pixels] = 8, colour
    return (picture >> shift[..., None]) + added


def _stripes(height: int, width: int, size: int) -> NDArray[np.bool_]:
    """Diagonal stripes, at least one through each patch of `size` pixels: (height, width)."""
    pitch = min(max(size // 2, 4), 10)
    position = np.arange(height)[:, None] + np.arange(width)
    return position % pitch < max(1, pitch // 4)


def _edges(kept: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """The pixels between kept and dropped patches, on the dropped side: (height, width)."""
    edges = np.zeros_like(kept)
    for _ in range(1 if size < 12 else 2 if size < 24 else 3):
        grown = kept | edges
        edges[1:] |= grown[:-1]
        edges[:-1] |= grown[1:]
        edges[:, 1:] |= grown[:, :-1]
        edges[:, :-1] |= grown[:, 1:]
        edges &= ~kept
    return edges
