"""Pictures of a patch selection."""

import math

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
