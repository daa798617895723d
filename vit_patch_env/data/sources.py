"""Where images come from: labels are known first, images are read once it is known which."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.data.images import Images
from vit_patch_env.names import ImagesName
from vit_patch_env.system.limits import available_memory

Positions = NDArray[np.int64]


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
    """Images that are in memory already.

    Args:
        images: (n_images, channels, height, width) uint8.
        labels: as of any source.
        parts: as of any source.
        classes: as of any source.
        flip: as of any source.
        notes: as of any source.
    """

    def __init__(
        self,
        images: Tensor,
        labels: NDArray[np.int64],
        parts: Parts,
        classes: tuple[str, ...],
        *,
        flip: bool,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(labels, parts, classes, flip=flip, notes=notes)
        self._images = images

    def read(self, positions: Sequence[Positions], images: ImagesName) -> list[Images]:
        """The images at each of the positions, in memory, where they are anyway."""
        return [self._images[part] for part in positions]


def where_to_keep(images: ImagesName, n_bytes: int) -> ImagesName:
    """`memory` or `stream`: for `auto`, memory if that leaves as much of it free."""
    if images != "auto":
        return images
    return "memory" if n_bytes <= available_memory() // 2 else "stream"
