"""Resizing images to one shape."""

import math
from typing import NamedTuple

from torch import Tensor

from vit_patch_env.data.rgb import BACKGROUND
from vit_patch_env.names import InterpolationName, ResizeName
from vit_patch_env.patches.grid import ImageSize, height_width, size_text
from vit_patch_env.system.memory import check_fits


class Form(NamedTuple):
    """What images become.

    Attributes:
        image_size: height and width, in pixels; one number for squares.
        resize: how they get this shape, as in `resize_images`.
        interpolation: of resizing.
    """

    image_size: ImageSize
    resize: ResizeName
    interpolation: InterpolationName = "bilinear"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return height_width(self.image_size)

    @property
    def n_pixels(self) -> int:
        """Pixels of an image."""
        return math.prod(self.size)


def resize_square(images: Tensor, image_size: int) -> Tensor:
    """Square images (..., channels, image_size, image_size): shorter side resized, centre-cropped.

    Raises:
        ValueError: if they do not fit into memory.
    """
    return resize_images(images, image_size, "crop")


def resize_images(
    images: Tensor,
    image_size: ImageSize,
    resize: ResizeName,
    interpolation: InterpolationName = "bilinear",
) -> Tensor:
    """Images of one shape, (..., channels, height, width).

    Args:
        images: (..., channels, any height, any width) uint8.
        image_size: height and width, in pixels; one number for squares.
        resize: `crop` resizes until both sides are covered and keeps the centre; `stretch` resizes
            both sides; `pad` resizes until both sides fit and fills the rest with the background of
            pictures.
        interpolation: `bilinear` or `bicubic`, both with antialiasing.

    Raises:
        ValueError: if they do not fit into memory.
    """
    height, width = height_width(image_size)
    if tuple(images.shape[-2:]) == (height, width):
        return images
    from torchvision.transforms.v2 import InterpolationMode  # takes a second to import
    from torchvision.transforms.v2 import functional as transforms

    n_channels = math.prod(images.shape[:-2])
    check_fits(n_channels * height * width, f"images of image_size {size_text(image_size)}")
    scaled = _scaled(tuple(images.shape[-2:]), (height, width), resize)
    mode = InterpolationMode(interpolation)
    resized: Tensor = transforms.resize(images, scaled, mode, antialias=True)
    if resize == "crop":
        resized = transforms.center_crop(resized, [height, width])
    elif resize == "pad":
        top, left = (height - scaled[0]) // 2, (width - scaled[1]) // 2
        bottom, right = height - scaled[0] - top, width - scaled[1] - left
        resized = transforms.pad(resized, [left, top, right, bottom], fill=BACKGROUND[0])
    return resized


def _scaled(size: tuple[int, ...], target: tuple[int, int], resize: ResizeName) -> list[int]:
    """Height and width of whole images once resized."""
    if resize == "stretch":
        return list(target)
    # The side that is exactly as long as wanted; the other one is longer, or shorter with `pad`.
    is_flatter = size[0] * target[1] <= size[1] * target[0]
    exact = int(is_flatter != (resize == "crop"))
    ideal = size[1 - exact] * target[exact] / size[exact]
    other = int(ideal) if resize == "crop" else max(1, round(ideal))  # as torchvision rounds
    return [other, target[1]] if exact else [target[0], other]
