"""Resizing images to squares."""

import math
from typing import NamedTuple

from torch import Tensor

from vit_patch_env.data.rgb import BACKGROUND
from vit_patch_env.names import InterpolationName, ResizeName
from vit_patch_env.system.memory import check_fits


class Form(NamedTuple):
    """What images become.

    Attributes:
        image_size: height and width, in pixels.
        resize: how they become squares, as in `resize_images`.
        interpolation: of resizing.
    """

    image_size: int
    resize: ResizeName
    interpolation: InterpolationName = "bilinear"


def resize_square(images: Tensor, image_size: int) -> Tensor:
    """Square images (..., channels, image_size, image_size): shorter side resized, centre-cropped.

    Raises:
        ValueError: if they do not fit into memory.
    """
    return resize_images(images, image_size, "crop")


def resize_images(
    images: Tensor,
    image_size: int,
    resize: ResizeName,
    interpolation: InterpolationName = "bilinear",
) -> Tensor:
    """Square images (..., channels, image_size, image_size).

    Args:
        images: (..., channels, height, width) uint8.
        image_size: height and width, in pixels.
        resize: `crop` resizes the shorter side and keeps the centre; `stretch` resizes both sides;
            `pad` resizes the longer side and fills the rest with the background of pictures.
        interpolation: `bilinear` or `bicubic`, both with antialiasing.

    Raises:
        ValueError: if they do not fit into memory.
    """
    height, width = images.shape[-2:]
    if (height, width) == (image_size, image_size):
        return images
    from torchvision.transforms.v2 import InterpolationMode  # takes a second to import
    from torchvision.transforms.v2 import functional as transforms

    n_channels = math.prod(images.shape[:-2])
    check_fits(n_channels * image_size**2, f"images of image_size {image_size}")
    if resize == "crop":
        size = [image_size]
    elif resize == "stretch":
        size = [image_size, image_size]
    else:
        longer = max(height, width)
        size = [max(1, round(side * image_size / longer)) for side in (height, width)]
    mode = InterpolationMode(interpolation)
    resized: Tensor = transforms.resize(images, size, mode, antialias=True)
    if resize == "crop":
        resized = transforms.center_crop(resized, [image_size, image_size])
    elif resize == "pad":
        top, left = (image_size - size[0]) // 2, (image_size - size[1]) // 2
        bottom, right = image_size - size[0] - top, image_size - size[1] - left
        resized = transforms.pad(resized, [left, top, right, bottom], fill=BACKGROUND[0])
    return resized
