"""Augmentation of training batches: what `augment`, `random_erasing`, `mixup` and `cutmix` do.

The operations are those of torchvision.transforms.v2, which draw from torch's global generators:
see `generators.py`. Such a transform treats a batch as one image, with one operation for all; here
it is called for parts of the batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vit_patch_env.checks import ArgumentError, shown
from vit_patch_env.names import AugmentName
from vit_patch_env.system.torch_state import on_cpu

Transform = Callable[[Tensor], Tensor]
"""Maps uint8 images (batch, channels, height, width) to uint8 images of the same shape."""

N_GROUPS = 32
"""Groups of a batch whose images share an operation."""

_GREY_OR_COLOUR = (1, 3)


class Augmentation(NamedTuple):
    """How the images of a batch are changed, before normalisation.

    Attributes:
        crop: whether they are cropped after padding, by `crop_padding`.
        flip: whether half of them are mirrored, where `flip` allows it.
        transform: applied after that, with seeded global generators; None for nothing.
        channels: numbers of channels that it takes; None for any.
    """

    crop: bool = True
    flip: bool = True
    transform: Transform | None = None
    channels: tuple[int, ...] | None = None


def crop_flip() -> Augmentation:
    """Crops of zero-padded images (`crop_padding`), half of them mirrored (`flip`)."""
    return Augmentation()


def none() -> Augmentation:
    """Images as they are, whatever `crop_padding` and `flip` are."""
    return Augmentation(crop=False, flip=False)


def randaugment() -> Augmentation:
    """`crop-flip`, then RandAugment: two of 14 operations per image, at magnitude 9 of 30.

    Cubuk et al. 2020.
    """
    return Augmentation(transform=_rand_augment, channels=_GREY_OR_COLOUR)


def trivialaugment() -> Augmentation:
    """`crop-flip`, then TrivialAugment: one of 14 operations per image, at a random magnitude.

    Müller and Hutter 2021.
    """
    return Augmentation(transform=_trivial_augment, channels=_GREY_OR_COLOUR)


def random_resized_crop() -> Augmentation:
    """Crops of 8 to 100 % of the area, resized to the image's size, half of them mirrored (`flip`).

    Szegedy et al. 2015. Their aspect ratio is that of the images times 3/4 to 4/3.
    """
    return Augmentation(crop=False, transform=_resized_crops)


AUGMENTATIONS: dict[AugmentName, Callable[[], Augmentation]] = {
    "crop-flip": crop_flip,
    "none": none,
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
    "random-resized-crop": random_resized_crop,
}


def make_augmentation(augment: AugmentName | Transform) -> Augmentation:
    """An augmentation by name, or a user's transform, without crops and mirrored images."""
    if isinstance(augment, str):
        return AUGMENTATIONS[augment]()
    return Augmentation(crop=False, flip=False, transform=_checked(augment))


def check_augmentation(augment: AugmentName | Transform, channels: int) -> None:
    """Refuse an augmentation that does not take images of so many channels.

    Raises:
        ArgumentError: naming `augment`.
    """
    taken = make_augmentation(augment).channels
    if taken is not None and channels not in taken:
        numbers = " or ".join(map(str, taken))
        raise ArgumentError(
            "augment", f"{augment} needs images of {numbers} channels, got {channels}"
        )


class Mixing(NamedTuple):
    """What is done to normalised batches, with seeded global generators.

    Attributes:
        random_erasing: probability that a rectangle of an image is erased, in [0, 1].
        mixup: alpha of mixup's Beta distribution; 0 for no mixup.
        cutmix: alpha of CutMix's Beta distribution; 0 for no CutMix. If both are positive, each
            batch gets one of the two, at random.
        n_classes: number of classes of the labels.
    """

    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    n_classes: int = 0

    @property
    def changes(self) -> bool:
        """Whether it does anything."""
        return any((self.random_erasing, self.mixup, self.cutmix))

    @on_cpu()
    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (batch, channels, height, width) and their labels, some erased and mixed.

        Args:
            images: (batch, channels, height, width) float32, normalised; may be overwritten.
            labels: (batch,) int64.

        Returns:
            Labels are probabilities (batch, n_classes) float32 with mixup or CutMix.
        """
        if self.random_erasing:
            images = erase(images, self.random_erasing)
        if not (self.mixup or self.cutmix):
            return images, labels
        from torchvision.transforms import v2

        mixes = [
            kind(alpha=alpha, num_classes=self.n_classes)
            for kind, alpha in ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
            if alpha
        ]
        mix = mixes[int(torch.randint(len(mixes), ()))]
        mixed: tuple[Tensor, Tensor] = mix(images, labels)
        return mixed


def erase(images: Tensor, probability: float) -> Tensor:
    """Erase a rectangle of each image with a probability (Random Erasing, Zhong et al. 2020).

    Erased pixels are 0, the mean of normalised images. 2 to 33 % of the area are erased, of an
    aspect ratio between 0.3 and 3.3.

    Args:
        images: (batch, channels, height, width) float32; overwritten.
        probability: in [0, 1].
    """
    from torchvision.transforms import v2

    sample = v2.RandomErasing(p=1.0)
    for index in (
        torch.nonzero(torch.rand(len(images), dtype=torch.float32) < probability).flatten().tolist()
    ):
        one = sample.make_params([images[index]])
        if one["v"] is not None:  # None if no rectangle fits, as in an image of one pixel
            rows, columns = (
                slice(one["i"], one["i"] + one["h"]),
                slice(one["j"], one["j"] + one["w"]),
            )
            images[index, :, rows, columns] = 0.0
    return images


@on_cpu()
def _rand_augment(images: Tensor) -> Tensor:
    from torchvision.transforms import v2

    one = v2.RandAugment(num_ops=1, interpolation=v2.InterpolationMode.BILINEAR)
    return _in_groups(one, _in_groups(one, images))


@on_cpu()
def _trivial_augment(images: Tensor) -> Tensor:
    from torchvision.transforms import v2

    one = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)
    return _in_groups(one, images)


@on_cpu()
def _resized_crops(images: Tensor) -> Tensor:
    from torchvision.transforms import v2

    height, width = images.shape[-2:]
    aspect = width / height  # torchvision's range of ratios is for squares
    one = v2.RandomResizedCrop((height, width), ratio=(3 / 4 * aspect, 4 / 3 * aspect))
    return torch.stack([one(image) for image in images])


def _in_groups(transform: Any, images: Tensor) -> Tensor:
    """The images (batch, channels, height, width), transformed in random groups.

    Each image has the same chance of every operation as on its own; those of a group share it. On
    one core of a CPU, RandAugment of 128 images at 32 pixels takes 16 ms so, and 65 ms image by
    image, with torch 2.14 and torchvision 0.29.
    """
    order = torch.randperm(len(images))
    back = torch.argsort(order).to(images.device, non_blocking=True)
    groups = images[order.to(images.device, non_blocking=True)].tensor_split(
        min(len(images), N_GROUPS)
    )
    return torch.cat([transform(group) for group in groups])[back]


def _checked(transform: Transform) -> Transform:
    """A user's transform, whose results are checked."""

    def apply(images: Tensor) -> Tensor:
        expected = images.shape
        result: Any = transform(images)
        if not isinstance(result, Tensor):
            got = shown(result)
        elif (result.dtype, result.shape) != (torch.uint8, expected):
            got = _described(result.dtype, result.shape)
        else:
            return result.to(images.device)
        raise ArgumentError(
            "augment", f"must return a tensor of {_described(torch.uint8, expected)}, got {got}"
        )

    return apply


def _described(dtype: torch.dtype, shape: torch.Size) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
