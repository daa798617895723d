"""Where images come from: labels are known first, images are read once it is known which."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.data.images import Images, Indices, at
from vit_patch_env.data.resize import resize_images
from vit_patch_env.names import ImagesName, ResizeName
from vit_patch_env.system.limits import available_memory
from vit_patch_env.system.memory import check_fits

Positions = NDArray[np.int64]

_CHUNK = 256
"""Images that are resized at once."""


class Parts(NamedTuple):
    """The positions of a source's images by the split they come from; None where it has none."""

    train: Positions
    val: Positions | None = None
    test: Positions | None = None


class Source(ABC):
    """Images of which the labels are known, and that are read on request.

    Args:
        labels: (n_images,) int64.
        parts: the splits that the source comes in.
        classes: class names, by label.
        flip: whether a mirrored image still belongs to its class.
        notes: lines that tell a user what was read.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        parts: Parts,
        classes: tuple[str, ...],
        *,
        flip: bool,
        notes: Sequence[str] = (),
    ) -> None:
        self.labels = labels
        self.parts = parts
        self.classes = classes
        self.flip = flip
        self.notes = list(notes)

    def prepare(self, positions: Positions) -> NDArray[np.bool_]:
        """Make the images at these positions ready to be read; which of them can be: (n,) bool.

        Raises:
            ValueError: for an image that cannot be read, unless it may be skipped.
        """
        return np.ones(len(positions), dtype=np.bool_)

    @abstractmethod
    def read(self, positions: Sequence[Positions], images: ImagesName) -> list[Images]:
        """The images at each of the positions.

        Args:
            positions: without duplicates, all of which were prepared.
            images: where to keep them: `memory`, `stream`, or `auto` for what fits.

        Raises:
            ValueError: if they do not fit.
        """


class ArraySource(Source):
    """Images that are in memory, each resized when it is known to be used.

    Args:
        images: (n_images, channels, height, width) uint8, of any size.
        labels: as of any source.
        parts: as of any source.
        classes: as of any source.
        image_size: height and width to resize to, in pixels.
        resize: how images become squares.
        flip: as of any source.
    """

    def __init__(
        self,
        images: Tensor,
        labels: NDArray[np.int64],
        parts: Parts,
        classes: tuple[str, ...],
        *,
        image_size: int,
        resize: ResizeName,
        flip: bool,
    ) -> None:
        super().__init__(labels, parts, classes, flip=flip)
        self._images = images
        self._form = image_size, resize

    def read(self, positions: Sequence[Positions], images: ImagesName) -> list[Images]:
        """The images at each of the positions, resized, in memory or as `ResizedImages`."""
        parts = [ResizedImages(self._images, part, *self._form) for part in positions]
        n_bytes = sum(math.prod(part.shape) for part in parts)
        if where_to_keep(images, n_bytes) == "stream":
            self.notes.append(
                f"{sum(map(len, parts)):,} images ({n_bytes / 1e9:.1f} GB) are resized batch by "
                "batch"
            )
            return list(parts)
        check_fits(n_bytes, f"images of image_size {self._form[0]}")
        return [part.in_memory() for part in parts]


class ResizedImages:
    """Images in memory that are resized when they are indexed.

    Args:
        images: (n_images, channels, height, width) uint8, of any size.
        positions: of these images among them.
        image_size: height and width to resize to, in pixels.
        resize: how images become squares.
    """

    def __init__(
        self, images: Tensor, positions: Positions, image_size: int, resize: ResizeName
    ) -> None:
        self._images = images
        self._positions = positions
        self._form = image_size, resize
        self.shape = torch.Size((len(positions), images.shape[1], image_size, image_size))

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, indices: Indices) -> Tensor:
        """The images at these indices, in that order."""
        chosen = self._images[torch.from_numpy(at(self._positions, indices))]
        return resize_images(chosen.contiguous(), *self._form)

    def in_memory(self) -> Tensor:
        """All of the images."""
        if self._images.shape[2:] == self.shape[2:]:
            return self[:]
        images = torch.empty(self.shape, dtype=torch.uint8, device="cpu")
        for start in range(0, len(self), _CHUNK):
            images[start : start + _CHUNK] = self[start : start + _CHUNK]
        return images


def where_to_keep(images: ImagesName, n_bytes: int) -> ImagesName:
    """`memory` or `stream`: for `auto`, memory if that leaves as much of it free."""
    if images != "auto":
        return images
    return "memory" if n_bytes <= available_memory() // 2 else "stream"
