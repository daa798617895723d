"""What images a split may hold: a tensor, or an object that reads them when they are indexed."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64] | Tensor | slice

UNTRAINED = (0,)
"""Seeds of images that are read for anything but training."""


ALL = slice(None)
"""The whole of a batch, or all batches."""


class Request(NamedTuple):
    """Images to be read, with the random numbers of (seeds, part) if reading them is random.

    Attributes:
        indices: (n_images,) int64.
        seeds: as of `seeded_generators`.
        part: as of `seeded_generators`.
    """

    indices: NDArray[np.int64]
    seeds: tuple[int, ...]
    part: int


class Images(Protocol):
    """uint8 images (n_images, channels, height, width), indexed along the first axis.

    A tensor is one. Others read their images from a disk whenever they are indexed. They may have
    `prefetch(indices)`, called with the images that will be read next; `channel_sums()`, see
    `channel_sums`; and `batches(requests)`, an iterator of the images of each `Request`, which may
    take requests before it is asked for their images.
    """

    @property
    def shape(self) -> torch.Size:
        """(n_images, channels, height, width)."""

    def __len__(self) -> int:
        """The number of images."""

    def __getitem__(self, indices: Indices) -> Tensor:
        """The images at these indices, in that order, as a tensor."""


def at(positions: NDArray[np.int64], indices: Indices) -> NDArray[np.int64]:
    """The positions at these indices, which may be a tensor on any device."""
    return positions[indices.cpu().numpy() if isinstance(indices, Tensor) else indices]


def in_batches(images: Images, batch_size: int, some: slice = ALL) -> Iterator[Tensor]:
    """The images in order, in tensors of at most `batch_size`.

    Args:
        images: to be divided.
        batch_size: images per tensor.
        some: of the tensors, by default all.
    """
    batches = getattr(images, "batches", None)
    starts = range(0, len(images), batch_size)[some]
    if batches is None:
        for start in starts:
            yield images[start : start + batch_size]
    else:
        indices = np.arange(len(images))
        yield from batches(
            Request(indices[start : start + batch_size], UNTRAINED, 0) for start in starts
        )


def digests(images: Tensor) -> list[int]:
    """A number for each image's pixels, in this process; a grey image has that of it in RGB."""
    rgb = images.expand(-1, 3, -1, -1).contiguous()
    rows = rgb.cpu().view(len(rgb), -1).numpy()
    return [hash(row.tobytes()) for row in rows]


_VALUES = np.arange(256)
_CHUNK = 1024


def channel_sums(images: Images) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums of the pixel values, and of their squares, per channel: (channels,) each, exact."""
    own = getattr(images, "channel_sums", None)
    if own is not None:
        sums: tuple[NDArray[np.int64], NDArray[np.int64]] = own()
        return sums
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64, device="cpu")
    for part in in_batches(images, _CHUNK):
        for channel, values in enumerate(part.unbind(dim=1)):
            counts[channel] += torch.bincount(values.flatten(), minlength=256).cpu()
    return sums_of_counts(counts.numpy())


def sums_of_counts(
    counts: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As `channel_sums`, from how many pixels have each value: (channels, 256)."""
    return counts @ _VALUES, counts @ _VALUES**2
