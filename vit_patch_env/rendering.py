"""Pictures of a patch selection, in images and in texts."""

import math
from collections.abc import Sequence

import numpy as np
from einops import rearrange, repeat
from numpy.typing import NDArray


def draw_selection(
    images: NDArray[np.uint8], patch_mask: NDArray[np.bool_], zoom: int = 3
) -> NDArray[np.uint8]:
    """Images side by side with the dropped patches dimmed: (height, width, 3) uint8.

    Args:
        images: (n_images, channels, height, width), one channel or three.
        patch_mask: (n_patches,), True where a patch was kept; patches are square.
        zoom: screen pixels per image pixel.
    """
    height, width = images.shape[-2:]
    patch_size = math.isqrt(height * width // len(patch_mask))
    rows = height // patch_size
    kept = repeat(patch_mask, "(y x) -> (y p) (x q)", y=rows, p=patch_size, q=patch_size)
    dimmed = np.where(kept, images, images // 4 + 24)
    picture = rearrange(dimmed, "n c h w -> h (n w) c")
    if picture.shape[-1] == 1:
        picture = np.repeat(picture, 3, axis=-1)
    enlarged = repeat(picture, "h w c -> (h z) (w zoom) c", z=zoom, zoom=zoom)
    return np.ascontiguousarray(enlarged, dtype=np.uint8)


_CELL = 80, 14
"""Width and height of a token in a picture, in pixels."""

_WORD = 12
"""Letters of a token that are drawn."""


def draw_tokens(
    texts: Sequence[Sequence[str]], patch_mask: NDArray[np.bool_], columns: int = 8
) -> NDArray[np.uint8]:
    """Texts below each other with the dropped tokens in light grey: (height, width, 3) uint8.

    Args:
        texts: the tokens of each, all of the same number.
        patch_mask: (n_tokens,), True where a token was kept.
        columns: tokens in a line.
    """
    from PIL import Image, ImageDraw, ImageFont  # not needed for images

    width, height = _CELL
    n_lines = -(-len(patch_mask) // columns) + 1  # with an empty one
    picture = Image.new("RGB", (columns * width, len(texts) * n_lines * height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for index, text in enumerate(texts):
        for token, (word, kept) in enumerate(zip(text, patch_mask, strict=True)):
            line, column = divmod(token, columns)
            place = column * width + 2, (index * n_lines + line) * height
            # All that the font has where Pillow is built without FreeType.
            letters = word[:_WORD].encode("latin-1", "replace").decode("latin-1")
            draw.text(place, letters, fill="black" if kept else "lightgrey", font=font)
    return np.array(picture, dtype=np.uint8)
