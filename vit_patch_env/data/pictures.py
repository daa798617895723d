"""Pictures as 8-bit RGB."""

import numpy as np
from PIL import Image, ImageOps

BACKGROUND = (255, 255, 255)
"""White, on which transparent pictures are composed."""


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB: upright by its EXIF orientation, on `BACKGROUND` if transparent.

    Raises:
        ValueError: for 32-bit pixels, whose range is unknown.
    """
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels whose range is unknown")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = np.rint(np.asarray(image) / 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    opaque = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
