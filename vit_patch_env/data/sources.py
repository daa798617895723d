"""Where images come from: labels are known first, images are read once it is known which."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.checks import counted
from vit_patch_env.data.images import Images, Indices, at, digests, in_batches
from vit_patch_env.data.resize import Form, resize_images
from vit_patch_env.names import ImagesName
from vit_patch_env.patches.grid import size_text
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

    @classmethod
    def in_turn(cls, *n_images: int | None) -> "Parts":
        """The positions of splits that come one after the other; None for one that is missing."""
        start, parts = 0, []
        for n in n_images:
            parts.append(None if n is None else np.arange(start, start + n))
            start += n or 0
        train, *others = parts
        assert train is not None
        return cls(train, *others)


class Source(ABC):
    """Images of which the labels are known, and that are read on request.

    Args:
        labels: (n_images,) int64.
        parts: the splits that the source comes in.
        classes: class names, by label.
        flip: whether a mirrored image still belongs to its class.
        notes: lines that tell a user what was read.

    Attributes:
        item: what one of them is called in messages.
    """

    item: ClassVar[str] = "image"

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

    def prepare(self, positions: Positions, images: ImagesName) -> NDArray[np.bool_]:
        """Make the images at these positions ready to be read; which of them can be: (n,) bool.

        Args:
            positions: without duplicates.
            images: as of `read`.

        Raises:
            ValueError: for an image that cannot be read, unless it may be skipped.
        """
        del images
        return np.ones(len(positions), dtype=np.bool_)

    def name(self, position: int) -> str:
        """What the image at a position is called in messages."""
        split, number = self._split_and_number(position)
        return f"{self.item} {number} of the {split} set"

    def path_or_number(self, position: int) -> str:
        """The path of the file with the image at a position, or its number in its set."""
        return str(self._split_and_number(position)[1])

    def _split_and_number(self, position: int) -> tuple[str, int]:
        numbered = zip(self.parts, ("training", "validation", "test"), strict=True)
        for part, split in numbered:
            if part is not None and part[0] <= position <= part[-1]:
                return split, int(position - part[0])
        raise IndexError(position)

    def contents(self, positions: Positions, images: Images) -> Sequence[Hashable]:
        """For each image, what those of the same pixels have in common, and hardly any others.

        Args:
            positions: of images that were read.
            images: read at these positions.
        """
        del positions
        return [digest for part in in_batches(images, _CHUNK) for digest in digests(part)]

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
        form: what images become.
        flip: as of any source.
    """

    def __init__(
        self,
        images: Tensor,
        labels: NDArray[np.int64],
        parts: Parts,
        classes: tuple[str, ...],
        form: Form,
        *,
        flip: bool,
    ) -> None:
        super().__init__(labels, parts, classes, flip=flip)
        self._images = images
        self._form = form

    def contents(self, positions: Positions, images: Images) -> Sequence[Hashable]:
        """As `Source.contents`, of the images before they are resized."""
        del images
        parts = (positions[start : start + _CHUNK] for start in range(0, len(positions), _CHUNK))
        return [
            digest for part in parts for digest in digests(self._images[torch.from_numpy(part)])
        ]

    def read(self, positions: Sequence[Positions], images: ImagesName) -> list[Images]:
        """The images at each of the positions, resized, in memory or as `ResizedImages`."""
        parts = [ResizedImages(self._images, part, self._form) for part in positions]
        n_bytes = sum(math.prod(part.shape) for part in parts)
        if where_to_keep(images, n_bytes) == "stream":
            self.notes.append(
                f"{counted(sum(map(len, parts)), 'image')} ({n_bytes / 1e9:.1f} GB) are resized "
                "batch by batch"
            )
            return list(parts)
        check_fits(n_bytes, f"images of image_size {size_text(self._form.image_size)}")
        return [part.in_memory() for part in parts]


class ResizedImages:
    """Images in memory that are resized when they are indexed.

    Args:
        images: (n_images, channels, height, width) uint8, of any size.
        positions: of these images among them.
        form: what they become.
    """

    def __init__(self, images: Tensor, positions: Positions, form: Form) -> None:
        self._images = images
        self._positions = positions
        self._form = form
        self.shape = torch.Size((len(positions), images.shape[1], *form.size))

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


def warn_skipped(names: Sequence[str], n_images: int) -> None:
    """Say how many of `n_images` cannot be read, and which, if there are any."""
    if names:
        warnings.warn(
            f"{len(names):,} of {counted(n_images, 'image')} cannot be read and are skipped: "
            + ", ".join(sorted(names)),
            stacklevel=3,
        )
