"""A seeded, resumable stream of augmented mini-batches that live on the training device."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vit_patch_env.checks import check_integer
from vit_patch_env.data.augment import Augmentation, Mixing, crop_flip
from vit_patch_env.data.generators import seeded_generators
from vit_patch_env.data.images import ALL, Images, Request


class Batch(NamedTuple):
    """Normalised images (batch, channels, height, width) float32 and their labels.

    Texts are token ids (batch, n_tokens) int64. Labels are classes (batch,) int64 or, with mixup or
    CutMix, probabilities (batch, n_classes) float32.
    """

    images: Tensor
    labels: Tensor


class Position(NamedTuple):
    """A position in a stream: the epoch and the batch within it, both from 0."""

    epoch: int
    batch: int


class Preparation(Protocol):
    """Maps stored items to a model's input: `Normalize` for images, `TokenIds` for texts."""

    device: torch.device

    def __call__(self, items: Tensor, /) -> Tensor:
        """A model's input of items on the device."""

    def inverse(self, items: Tensor, /) -> Tensor:
        """The items of a model's input."""


class Normalize:
    """Maps uint8 images (batch, channels, height, width) to float32 of mean 0 and deviation 1.

    Args:
        mean: per channel, in [0, 1].
        std: per channel, in [0, 1]; a channel without variation is only centred.
        device: of the images.

    Attributes:
        device: of the images.
    """

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
    ) -> None:
        deviation = torch.tensor(
            [value or 1.0 for value in std], dtype=torch.float32, device=device
        )
        self.scale = (1 / (255 * deviation)).view(1, -1, 1, 1)
        self.device = self.scale.device
        shift = -torch.tensor(mean, dtype=torch.float32, device=device) / deviation
        self.shift = shift.view(1, -1, 1, 1)

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


_READING = 1
"""A seed that makes the random numbers of reading others than those of augmentation."""


class BatchStream:
    """Endless shuffled mini-batches of uint8 images or token ids, on the device of `normalize`.

    Every epoch's order, crops and mirrored images come from (seed, epoch) alone, and all other
    randomness from (seed, epoch, batch), so the stream can be resumed at any `position`; without
    transforms by torchvision or the user, it is the same on every device. The last, incomplete
    batch of an epoch is dropped; its images differ between epochs.

    Args:
        images: (n_images, channels, height, width) uint8; fastest as a tensor on the device. Texts
            are token ids (n_texts, n_tokens), which have neither crops nor mirrored images.
        labels: (n_images,) int64.
        normalize: applied to every batch after its augmentation.
        batch_size: images per batch.
        seed: of order and augmentation.
        crop_padding: pixels of zero padding for random crops; 0 for none.
        flip: whether half of the images are mirrored left to right.
        augmentation: of uint8 images; it may exclude crops and mirrored images. By default
            crop-flip.
        mixing: of normalised images and labels; None for none.
        part: of each batch that `next` returns, where other processes take the rest.

    Raises:
        ValueError: if there are fewer images than batch_size.
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor,
        normalize: Preparation,
        *,
        batch_size: int,
        seed: int,
        crop_padding: int = 4,
        flip: bool = True,
        augmentation: Augmentation | None = None,
        mixing: Mixing | None = None,
        part: slice = ALL,
    ) -> None:
        check_integer(1, len(images), batch_size=batch_size)
        self.images = images
        self.device = normalize.device
        self.labels = labels.to(self.device)
        self.normalize = normalize
        self.batch_size = batch_size
        self.seed = seed
        augmentation = crop_flip() if augmentation is None else augmentation
        self.crop_padding = crop_padding if augmentation.crop else 0
        self.flip = flip and augmentation.flip
        self._transform = augmentation.transform
        self._mixing = Mixing() if mixing is None else mixing
        self._part_of_batch = range(batch_size)[part]
        self._on_device = isinstance(images, Tensor) and images.device == self.device
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
        self._reader: Iterator[Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Seed and position, as plain data."""
        return {"seed": self.seed, "position": list(self._position)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume at the position of another stream of the same images."""
        self.seed = state["seed"]
        self.position = Position(*state["position"])

    def next(self) -> Batch:
        """The next batch."""
        epoch, index = self._position
        part = self._part
        # Kept for the next batch only if there is no error: it is ahead of the position until then.
        reader, self._reader = self._reader, None
        if reader is None and hasattr(self.images, "batches"):
            reader = self.images.batches(self._requests())
        images = self._chosen(part) if reader is None else self._moved(next(reader))
        labels = self.labels[self._order[part]]
        if self.crop_padding or self.flip:
            images = crop_and_flip(
                images, self._offsets[part], self._flips[part], self.crop_padding
            )
        batch = self._augmented(images, labels)
        if index + 1 < self.batches_per_epoch:
            self._position = Position(epoch, index + 1)
        else:
            self._position = Position(epoch + 1, 0)
            self._shuffle()
        prefetch = getattr(self.images, "prefetch", None)
        if prefetch is not None:
            prefetch(self._order_on_cpu[self._part])
        self._reader = reader
        return batch

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None}

    @property
    def _part(self) -> slice:
        """The part of the epoch's order that `next` returns."""
        start = self._position.batch * self.batch_size
        own = self._part_of_batch
        return slice(start + own.start, start + own.stop)

    def _chosen(self, part: slice) -> Tensor:
        """The uint8 images of a part of the epoch's order, on the device."""
        if self._on_device:
            return self.images[self._order[part]]
        return self._moved(self.images[self._order_on_cpu[part]])

    def _moved(self, images: Tensor) -> Tensor:
        """The images on the device."""
        if self.device.type == "cuda" and images.device.type == "cpu":
            images = images.pin_memory()  # so that the transfer need not be waited for
        return images.to(self.device, non_blocking=True)

    def _augmented(self, images: Tensor, labels: Tensor) -> Batch:
        """The normalised batch, with the randomness of (seed, epoch, batch)."""
        if self._transform is None and not self._mixing.changes:
            return Batch(self.normalize(images), labels)
        epoch, index = self._position
        seeds = (self.seed, epoch, *_of_part(self._part_of_batch))
        with seeded_generators(seeds, index, self.device):
            if self._transform is not None:
                images = self._transform(images)
            return Batch(*self._mixing(self.normalize(images), labels))

    def _requests(self) -> Iterator[Request]:
        """What to read for each batch from this position on."""
        return _requests(
            self.seed, len(self.images), self.batch_size, self._position, self._part_of_batch
        )

    def _shuffle(self) -> None:
        """Sample the epoch's order, crops and mirrored images, with one transfer each."""
        n_images = len(self.images)
        order, rng = _shuffled(self.seed, self._position.epoch, n_images)
        self._order_on_cpu = torch.from_numpy(order)
        self._order = self._order_on_cpu.to(self.device)
        offsets = rng.integers(0, 2 * self.crop_padding, size=(n_images, 2), endpoint=True)
        self._offsets = torch.from_numpy(offsets).to(self.device)
        flips = rng.random(n_images) < 0.5 if self.flip else np.zeros(n_images, dtype=np.bool_)
        self._flips = torch.from_numpy(flips).to(self.device)


def _shuffled(
    seed: int, epoch: int, n_images: int
) -> tuple[NDArray[np.int64], np.random.Generator]:
    """An epoch's order, and the generator of its other random numbers."""
    rng = np.random.default_rng([seed, epoch])
    return rng.permutation(n_images), rng


def _of_part(part: range) -> tuple[int, ...]:
    """Seeds that make the random numbers of a part of a batch others than those of the first."""
    return (part.start,) if part.start else ()


def _requests(
    seed: int, n_images: int, batch_size: int, position: Position, part: range
) -> Iterator[Request]:
    """What to read for a part of each batch of a stream from a position on."""
    start = position.batch * batch_size
    others = _of_part(part)
    for epoch in itertools.count(position.epoch):
        order, _ = _shuffled(seed, epoch, n_images)
        for first in range(start, n_images - batch_size + 1, batch_size):
            indices = order[first + part.start : first + part.stop]
            yield Request(indices, (seed, epoch, _READING, *others), first // batch_size)
        start = 0
