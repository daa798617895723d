"""The memory of a training on each of its devices."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from vit_patch_env.names import OptimizerName
from vit_patch_env.training.optimizers import N_STATES

_FLOAT32 = 4
"""Bytes of a number of an image."""


class Memory(NamedTuple):
    """Bytes on one device, by what they are of.

    Attributes:
        weights: parameters and buffers.
        gradients: of the parameters that are trained.
        optimizer: moments, or the momentum.
        average: moving average of the weights.
        activations: saved for the backward pass.
        images: the batch.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    images: int

    @property
    def total(self) -> int:
        """All of them together."""
        return sum(self)


def training_memory(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    n_images: int,
    activations: int,
    *,
    optimizer: OptimizerName,
    ema: bool,
) -> Memory:
    """The memory of a training step.

    Args:
        model: that is trained, in float32; torch's meta device is enough.
        image_shape: channels, height and width.
        n_images: of the batch on one device.
        activations: bytes of this batch, as `activation_bytes` counts them.
        optimizer: by name.
        ema: whether there is a moving average of the weights.
    """
    weights = sum(one.nbytes for one in (*model.parameters(), *model.buffers()))
    gradients = gradient_bytes(model)
    channels, height, width = image_shape
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=N_STATES[optimizer] * gradients,
        average=weights if ema else 0,
        activations=activations,
        images=_FLOAT32 * n_images * channels * height * width,
    )


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of the gradients of a model's trained parameters."""
    return sum(one.nbytes for one in model.parameters() if one.requires_grad)


def largest_batch(memory_of: Callable[[int], int], available: float) -> int:
    """The most images of a batch that fit on a device; 0 if none do.

    Args:
        memory_of: maps a number of images to the bytes of a step, which grow in proportion to it
            but for a constant.
        available: bytes of the device.
    """
    one, two = memory_of(1), memory_of(2)
    if one > available:
        return 0
    n_images = 1 + int((available - one) // (two - one))
    while n_images > 1 and memory_of(n_images) > available:  # a kernel may round sizes up
        n_images -= 1 + n_images // 100
    return n_images
