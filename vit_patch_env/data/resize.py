"""Resizing images to squares."""

import math

from torch import Tensor

from vit_patch_env.system.memory import check_fits


def resize_square(images: Tensor, image_size: int) -> Tensor:
    """Square images (..., channels, image_size, image_size): shorter side resized, centre-cropped.

    Raises:
        ValueError: if they do not fit into memory.
    """
    if images.shape[-2:] == (image_size, image_size):
        return images
    from torchvision.transforms.v2 import functional as transforms  # takes a second to import

    n_channels = math.prod(images.shape[:-2])
    check_fits(n_channels * image_size**2, f"images of image_size {image_size}")
    resized: Tensor = transforms.resize(images, [image_size], antialias=True)
    square: Tensor = transforms.center_crop(resized, [image_size, image_size])
    return square
