"""Images as PNG files in class folders."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.data.images import Images, in_batches
from vit_patch_env.experiments.use.distil.choosing import Advance

Change = Callable[[Tensor, slice], Tensor]
"""Maps some images of a split, uint8, and their places in it to the images that are written."""


class Written(NamedTuple):
    """What was written of a split.

    Attributes:
        n_images: number of images that were written.
        n_bytes: of their files.
        n_bytes_before: of the files that all of the split's images, unchanged, would have.
    """

    n_images: int
    n_bytes: int
    n_bytes_before: int


class ClassFolders:
    """Writes splits as `<split>/<class>/<place in the split>.png`.

    Args:
        root: folder of the splits.
        names: of the classes' folders, by label.
        batch_size: images that are read at once.
    """

    def __init__(self, root: Path, names: Sequence[str], batch_size: int) -> None:
        self._root = root
        self._names = names
        self._batch_size = batch_size

    def write(
        self,
        split: str,
        images: Images,
        labels: Tensor,
        *,
        chosen: NDArray[np.bool_] | None = None,
        change: Change | None = None,
        advance: Advance = lambda _: None,
    ) -> Written:
        """Write the images of a split.

        Args:
            split: its name.
            images: (n_images, channels, height, width) uint8, of one or three channels.
            labels: (n_images,) int64.
            chosen: which of the images are written, (n_images,); None for all.
            change: what becomes of them; None for nothing.
            advance: see `Advance`.
        """
        folders = [self._root / split / name for name in self._names]
        for folder in folders:
            folder.mkdir(parents=True)
        n_digits = max(6, len(str(len(images) - 1)))
        n_written = n_bytes = n_bytes_before = place = 0
        for part in in_batches(images, self._batch_size):
            part = part.cpu()
            places = slice(place, place + len(part))
            changed = part if change is None else change(part, places)
            for before, image in zip(part, changed, strict=True):
                original = png(before)
                n_bytes_before += len(original)
                if chosen is None or chosen[place]:
                    content = original if change is None else png(image)
                    folder = folders[int(labels[place])]
                    (folder / f"{place:0{n_digits}}.png").write_bytes(content)
                    n_written, n_bytes = n_written + 1, n_bytes + len(content)
                place += 1
            advance(len(part))
        return Written(n_written, n_bytes, n_bytes_before)


def png(image: Tensor) -> bytes:
    """A PNG file of an image (channels, height, width) uint8, in grey or RGB."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).contiguous().numpy()
    content = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(content, "PNG")
    return content.getvalue()


def blanked(
    images: Tensor, masks: NDArray[np.bool_], grid: tuple[int, int], colour: Tensor
) -> Tensor:
    """Images in which dropped patches have one colour.

    Args:
        images: (batch, channels, height, width) uint8.
        masks: patches that are kept of each, (batch, n_patches).
        grid: rows and columns of patches.
        colour: (channels,) uint8.
    """
    rows, columns = grid
    height, width = images.shape[2:]
    kept = torch.from_numpy(masks).view(-1, 1, rows, columns)
    kept = kept.repeat_interleave(height // rows, 2).repeat_interleave(width // columns, 3)
    return torch.where(kept, images, colour.view(1, -1, 1, 1))
