"""The size of images, and the grid of patches that they are cut into."""

from collections.abc import Sequence
from typing import Any

from vit_patch_env.checks import ArgumentError, named
from vit_patch_env.patches.sampling import Grid

ImageSize = int | tuple[int, int]
"""Height and width of images in pixels; one number where they are equal."""


def height_width(image_size: ImageSize | Sequence[Any]) -> tuple[Any, Any]:
    """Height and width of images of a size, which may be one number for both."""
    if isinstance(image_size, Sequence):
        height, width = image_size
        return height, width
    return image_size, image_size


def size_text(image_size: ImageSize) -> str:
    """A size in words: "32", or "160 x 224" where height and width differ."""
    height, width = height_width(image_size)
    return str(height) if height == width else f"{height} x {width}"


def patch_grid(image_size: ImageSize, patch_size: int) -> Grid:
    """Rows and columns of patches of an image.

    Raises:
        ArgumentError: if height or width is not a positive multiple of patch_size.
    """
    height, width = height_width(image_size)
    if patch_size < 1 or min(height, width) < 1 or height % patch_size or width % patch_size:
        raise ArgumentError(
            "image_size",
            f"must be divisible by {named('patch_size')}, got {named('image_size')} "
            f"{size_text(image_size)} and {named('patch_size')} {patch_size}",
        )
    return height // patch_size, width // patch_size
