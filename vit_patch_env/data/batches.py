"""A seeded, resumable stream of augmented mini-batches that live on the training device."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vit_patch_env.checks import check_integer


class Batch(NamedTuple):
    """Normalised images (batch, channels, height, width) float32 and labels (batch,) int64."""

    images: Tensor
    labels: Tensor


class Position(NamedTuple):
    """A position in a stream: the epoch and the batch within it, both from 0."""

    epoch: int
    batch: int


class Normalize:
    """Maps uint8 images (batch, channels, height, width) to float32 of mean 0 and deviation 1.

    Args:
        mean: per channel, in [0, 1].
        std: per channel, in [0, 1]; a channel without variation is only centred.
        device: of the images.
    """

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
    ) -> None:
        deviation = torch.tensor([value or 1.0 for value in std], device=device)
        self.scale = (1 / (255 * deviation)).view(1, -1, 1, 1)
        self.shift = (-torch.tensor(mean, device=device) / deviation).view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised images, float32."""
        return torch.addcmul(self.shift, images, self.scale)

    def inverse(self, images: Tensor) -> Tensor:
        """The uint8 images that were normalised."""
        return ((images - self.shift) / self.scale).round().clamp(0, 255).to(torch.uint8)


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Random crops of zero-padded images, some mirrored: the same shape and type as `images`.

    Args:
        images: (batch, channels, height, width).
        offsets: top and left corner of each crop, (batch, 2) int64 in [0, 2 * padding].
        flips: (batch,) bool, True where the crop is mirrored left to right.
        padding: pixels added on every side.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = offsets[:, :1] + torch.arange(height, device=images.device)  # (batch, height)
    columns = torch.arange(width, device=images.device).expand(batch, -1)
    columns = offsets[:, 1:] + torch.where(flips[:, None], width - 1 - columns, columns)
    index = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]  # (batch, height, width)
    index = index.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view_as(images)


class BatchStream:
    """Endless shuffled mini-batches of images held as uint8 on the device.

    Every epoch's order and augmentation come from (seed, epoch) alone, so the stream is the
    same on every device and can be resumed at any `position`. The last, incomplete batch of an
    epoch is dropped; its images differ between epochs.

    Args:
        images: (n_images, channels, height, width) uint8, on the device.
        labels: (n_images,) int64, on the device.
        normalize: applied to every batch last.
        batch_size: images per batch.
        seed: of order and augmentation.
        crop_padding: pixels of zero padding for random crops; 0 for none.
        flip: whether half of the images are mirrored left to right.

    Raises:
        ValueError: if there are fewer images than batch_size.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        normalize: Normalize,
        *,
        batch_size: int,
        seed: int,
        crop_padding: int = 4,
        flip: bool = True,
    ) -> None:
        check_integer(1, len(images), batch_size=batch_size)
        self.images = images
        self.labels = labels
        self.normalize = normalize
        self.batch_size = batch_size
        self.seed = seed
        self.crop_padding = crop_padding
        self.flip = flip
        self.batches_per_epoch = len(images) // batch_size
        self.position = Position(0, 0)

    @property
    def position(self) -> Position:
        """The position of the next batch; assign it to resume there."""
        return self._position

    @position.setter
    def position(self, position: Position) -> None:
        position = Position(*position)
        check_integer(0, epoch=position.epoch)
        check_integer(0, self.batches_per_epoch - 1, batch=position.batch)
        self._position = position
        self._shuffle()

    def state_dict(self) -> dict[str, Any]:
        """Seed and position, as plain data."""
        return {"seed": self.seed, "position": list(self._position)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume at the position of another stream of the same images."""
        self.seed = state["seed"]
        self.position = Position(*state["position"])

    def next(self) -> Batch:
        """The next batch."""
        start = self._position.batch * self.batch_size
        part = slice(start, start + self.batch_size)
        chosen = self._order[part]
        images = self.images[chosen]
        if self.crop_padding or self.flip:
            images = crop_and_flip(
                images, self._offsets[part], self._flips[part], self.crop_padding
            )
        batch = Batch(self.normalize(images), self.labels[chosen])
        epoch, index = self._position
        if index + 1 < self.batches_per_epoch:
            self._position = Position(epoch, index + 1)
        else:
            self.position = Position(epoch + 1, 0)
        return batch

    def _shuffle(self) -> None:
        """Sample the epoch's order and augmentation, with one transfer each."""
        rng = np.random.default_rng([self.seed, self._position.epoch])
        n_images = len(self.images)
        device = self.images.device
        self._order = torch.from_numpy(rng.permutation(n_images)).to(device)
        offsets = rng.integers(0, 2 * self.crop_padding, size=(n_images, 2), endpoint=True)
        self._offsets = torch.from_numpy(offsets).to(device)
        flips = rng.random(n_images) < 0.5 if self.flip else np.zeros(n_images, dtype=np.bool_)
        self._flips = torch.from_numpy(flips).to(device)
