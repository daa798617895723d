"""The memory of a training on each of its devices."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from vit_patch_env.names import OptimizerName
from vit_patch_env.training.optimizers import N_STATES

_FLOAT32 = 4
"""Bytes of a number of an image."""

NEEDED_SHARE = 1.25
"""Memory that a device needs, over what is counted. An assumption: on a CPU the peak of real steps
was up to 1.24 times what was counted (docs/planning.md); on a GPU it has not been measured."""


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
        memory_of: maps a number of images to the bytes of a step, which grow with it, about in
            proportion but for a constant.
        available: bytes of the device.
    """
    one, two = memory_of(1), memory_of(2)
    if one > available:
        return 0
    # An estimate, as a kernel may round sizes up. From there on in steps that double.
    fits = too_many = 1 + int((available - one) // (two - one))
    step = 1
    while memory_of(fits) > available:
        fits, too_many = max(fits - step, 1), fits
        step *= 2
    while memory_of(too_many) <= available:
        fits, too_many = too_many, too_many + step
        step *= 2
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if memory_of(middle) <= available:
            fits = middle
        else:
            too_many = middle
    return fits
