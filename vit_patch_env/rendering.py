"""Pictures of a patch selection."""

import numpy as np
from einops import rearrange, repeat
from numpy.typing import NDArray


def draw_selection(
    images: NDArray[np.uint8], patch_mask: NDArray[np.bool_], zoom: int = 3
) -> NDArray[np.uint8]:
    """Images side by side with the dropped patches dimmed: (height, width, 3) uint8.

    Args:
        images: (n_images, channels, height, width), square, one channel or three.
        patch_mask: (n_patches,), True where a patch was kept.
        zoom: screen pixels per image pixel.
    """
    side = int(len(patch_mask) ** 0.5)
    patch_size = images.shape[-1] // side
    kept = repeat(patch_mask, "(y x) -> (y p) (x q)", y=side, p=patch_size, q=patch_size)
    dimmed = np.where(kept, images, images // 4 + 24)
    picture = rearrange(dimmed, "n c h w -> h (n w) c")
    if picture.shape[-1] == 1:
        picture = np.repeat(picture, 3, axis=-1)
    enlarged = repeat(picture, "h w c -> (h z) (w zoom) c", z=zoom, zoom=zoom)
    return np.ascontiguousarray(enlarged, dtype=np.uint8)
