"""Images from anywhere as a ViT takes them: files, Pillow's images, arrays and tensors."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vit_patch_env.checks import InputError, counted
from vit_patch_env.data.batches import Normalize
from vit_patch_env.data.items import ItemError, image_tensor
from vit_patch_env.data.pictures import read_picture
from vit_patch_env.data.resize import resize_images
from vit_patch_env.models.weights.card import WeightsCard

Picture = str | os.PathLike[str] | Image.Image | Tensor | np.ndarray[Any, Any]
"""One image: its file, or its pixels."""


class Preprocessing:
    """What makes images those that a ViT was trained on: its size, channels and normalisation.

    Files are read as those of an image folder are, and what is in memory as the items of other
    data sets, so that a test image becomes what it was in training.

    Args:
        card: of the ViT's weights.
        device: of normalised images.
    """

    def __init__(self, card: WeightsCard, device: torch.device) -> None:
        self._card = card
        self.normalize = Normalize(card.mean, card.std, device)

    def __call__(self, image: Picture) -> Tensor:
        """A normalised image, (channels, height, width) float32 on the ViT's device.

        Raises:
            InputError: as `pixels`.
        """
        return self.batch([image])[0]

    def batch(self, images: Iterable[Picture]) -> Tensor:
        """Normalised images, (batch, channels, height, width) float32 on the ViT's device.

        Raises:
            InputError: as `pixels`.
        """
        pixels = torch.stack([self.pixels(image) for image in images])
        return self.normalize(pixels.to(self.normalize.device))

    def pixels(self, image: Picture) -> Tensor:
        """An image of the ViT's size and channels, (channels, height, width) uint8 on the CPU.

        Args:
            image: the path of a picture; a PIL image; a uint8 or bool array (height, width) or
                (height, width, channels); or a tensor (height, width) or (channels, height, width)
                of the same types or floating point in [0, 1].

        Raises:
            InputError: for a picture that cannot be read, or pixels of another type, shape or
                number of channels.
        """
        card = self._card
        if isinstance(image, str | os.PathLike):
            path = os.fspath(image)
            rgb = read_picture(path, card.image_size, card.resize, interpolation=card.interpolation)
            return self._in_channels(torch.from_numpy(rgb), is_picture=True)
        try:
            pixels = image_tensor(image, "the images")
        except ItemError as error:
            raise InputError(str(error)) from error
        resized = resize_images(pixels, card.image_size, card.resize, card.interpolation)
        return self._in_channels(resized, is_picture=isinstance(image, Image.Image))

    def _in_channels(self, pixels: Tensor, *, is_picture: bool) -> Tensor:
        """Pixels in the ViT's channels: pictures are grey or in colour, as it needs them."""
        expected = self._card.channels
        if len(pixels) == expected:
            return pixels
        if is_picture and expected == 3:
            return pixels.expand(3, -1, -1)
        if is_picture and expected == 1:
            grey = Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert("L")
            return torch.from_numpy(np.array(grey))[None]
        raise InputError(
            f"expected images of {counted(expected, 'channel')}, as the run's, got "
            f"{counted(len(pixels), 'channel')}"
        )


def as_pictures(images: Picture | Sequence[Picture]) -> Any:
    """One or more images as a sequence; arrays and tensors of four axes are several."""
    if isinstance(images, Tensor | np.ndarray):
        return images if images.ndim == 4 else [images]
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if not isinstance(images, Sequence):
        raise InputError(f"expected an image or a list of them, got {type(images).__name__}")
    return images


def in_batches(
    images: Sequence[Any], batch_size: int, preprocess: Preprocessing
) -> Iterator[Tensor]:
    """Normalised images, in batches of at most `batch_size`."""
    for start in range(0, len(images), batch_size):
        yield preprocess.batch(images[start : start + batch_size])
