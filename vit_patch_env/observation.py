"""Observations of a batch and of the run: pure functions, chosen by name."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.checks import ArgumentError, named
from vit_patch_env.names import ObservationName
from vit_patch_env.observation_text import Layers, check_layers, parse_observation

RUN_FEATURES = 3
"""Number of run features at the end of the observations `...+run`."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def mean_attention_output(model: Any, images: Tensor, layers: Layers = (0,)) -> Tensor:
    """First attention layer's output averaged over dim and batch: (n_patches,).

    The paper's state (section 2.2). Of several layers it is the mean over them as well: one value
    per patch, as all agents, rules and wrappers expect, however many layers there are. A model may
    compute the means itself, in `mean_first_attention` and `mean_attention_outputs`.
    """
    if layers == (0,):
        if hasattr(model, "mean_first_attention"):
            return model.mean_first_attention(images)  # type: ignore[no-any-return]
        output: Tensor = model.first_attention(images)  # (batch, n_patches, dim)
        return output.float().mean(dim=(0, 2))
    if layers == "mean":
        layers = tuple(range(model.n_layers))
    if hasattr(model, "mean_attention_outputs"):
        return model.mean_attention_outputs(images, layers)  # type: ignore[no-any-return]
    outputs: Tensor = model.attention_outputs(images, layers)  # (n, batch, n_patches, dim)
    return outputs.float().mean(dim=(0, 1, 3))


def attention_output_of_each(model: Any, images: Tensor, layers: Layers = (0,)) -> Tensor:
    """`mean_attention_output` of each image by itself: (batch, n_patches)."""
    if layers == (0,):
        output: Tensor = model.first_attention(images)  # (batch, n_patches, dim)
        return output.float().mean(dim=2)
    if layers == "mean":
        layers = tuple(range(model.n_layers))
    outputs: Tensor = model.attention_outputs(images, layers)  # (n, batch, n_patches, dim)
    return outputs.float().mean(dim=(0, 3))


def standardized_attention(mean: Tensor) -> Tensor:
    """`attention_output`, standardised over the patches: mean 0 and standard deviation 1.

    Each batch by itself, so that nothing of one run or of later batches enters another. In
    [-sqrt(n_patches - 1), sqrt(n_patches - 1)]; zeros if all patches have the same value.

    Args:
        mean: `mean_attention_output` of the batch, (n_patches,).
    """
    return standardized(mean)


def standardized_attention_of_each(model: Any, images: Tensor, layers: Layers = (0,)) -> Tensor:
    """`standardized_attention` of each image by itself: (batch, n_patches)."""
    return standardized(attention_output_of_each(model, images, layers))


def standardized(values: Tensor) -> Tensor:
    """Values (..., n) with mean 0 and standard deviation 1 over the last axis, float32.

    Zeros if all of them are the same.
    """
    exact = values.double()
    centred = exact - exact.mean(dim=-1, keepdim=True)
    deviation = centred.square().mean(dim=-1, keepdim=True).sqrt()
    # Rounding errors give equal values a small spread, which must not be scaled up.
    same = deviation <= 1e-7 * exact.abs().amax(dim=-1, keepdim=True)
    return (
        torch.where(same, 0.0, centred / deviation)
        .clamp(*_standardized_bounds(values.shape[-1]))
        .float()
    )


def mean_attention_received(model: Any, images: Tensor) -> Tensor:
    """Attention that each patch receives, averaged over batch, heads and queries: (n_patches,).

    In [0, 1]; the patches' shares sum to 1.
    """
    attention: Tensor = model.first_attention_weights(images)  # (batch, heads, queries, keys)
    return attention.float().mean(dim=(0, 1, 2)).clamp(0, 1)


def attention_received_by_each(model: Any, images: Tensor) -> Tensor:
    """`mean_attention_received` of each image by itself: (batch, n_patches)."""
    attention: Tensor = model.first_attention_weights(images)  # (batch, heads, queries, keys)
    return attention.float().mean(dim=(1, 2)).clamp(0, 1)


def mean_class_attention(model: Any, images: Tensor) -> Tensor:
    """First layer's attention of the class token to each patch, mean over the batch: (n_patches,).

    In [0, 1]; the rest of the sum of 1 is the attention to the class token itself.
    """
    attention: Tensor = model.class_attention(images)  # (batch, n_patches)
    return attention.float().mean(dim=0).clamp(0, 1)


def class_attention_of_each(model: Any, images: Tensor) -> Tensor:
    """`mean_class_attention` of each image by itself: (batch, n_patches)."""
    attention: Tensor = model.class_attention(images)
    return attention.float().clamp(0, 1)


def zeros(model: Any, images: Tensor) -> Tensor:
    """Zeros (n_patches,), at no cost: for rules that do not use an observation."""
    return torch.zeros(model.n_patches, dtype=torch.float32, device=images.device)


def zeros_of_each(model: Any, images: Tensor) -> Tensor:
    """`zeros` of each image: (batch, n_patches)."""
    return zeros(model, images).expand(len(images), -1)


def run_features(progress: float, loss_ratio: float, selected_share: float) -> NDArray[np.float32]:
    """The run features, (3,): for agents that act differently at the start and end of a run.

    Args:
        progress: share of the budget used, in [0, 1].
        loss_ratio: running mean of the training loss over the first loss.
        selected_share: running mean of the share of patches selected, in [0, 1].
    """
    features = np.array((progress, loss_ratio, selected_share), dtype=np.float64)
    return features.clip(0, (1, _FLOAT32_MAX, 1)).astype(np.float32)


FEATURES_AFTER_RUN = run_features(1, 0, 1)
"""Run features after the end of a run."""


class Observation(NamedTuple):
    """An observation of a batch: a value per patch, its bounds, and whether it has run features.

    Attributes:
        mean: maps model and images to the mean over the images of a value per patch, (n_patches,).
        bounds: of the observation, by the number of patches; infinite if they have none.
        with_run: whether `run_features` are appended.
        needs: method of a model that it is computed with, if not all models have it, and in words.
        of_each: maps model and images to the values of each image by itself, (batch, n_patches),
            at once; None where that is not known.
        finish: maps the mean to the observation; None if it is the observation.
        n_images: of a batch that are observed, the first ones; None for all.
    """

    mean: Callable[..., Tensor]
    bounds: Callable[[int], tuple[float, float]]
    with_run: bool = False
    needs: tuple[str, str] | None = None
    of_each: Callable[..., Tensor] | None = None
    finish: Callable[[Tensor], Tensor] | None = None
    n_images: int | None = None

    def function(self, model: Any, images: Tensor) -> Tensor:
        """The observation of a batch: (n_patches,)."""
        return self.finished(self.mean(model, images[: self.n_images]))

    def finished(self, mean: Tensor) -> Tensor:
        """The observation of the mean over the images of a batch."""
        return mean if self.finish is None else self.finish(mean)

    def each(self, model: Any, images: Tensor) -> Tensor:
        """The values of each image by itself, as if it were a batch: (batch, n_patches)."""
        if self.of_each is None:
            return torch.stack([self.function(model, image[None]) for image in images])
        return self.of_each(model, images)

    def space(self, n_patches: int) -> spaces.Space[NDArray[np.float32]]:
        """Box of shape (n_patches,), or (n_patches + 3,) with run features."""
        low, high = (np.full(n_patches, bound) for bound in self.bounds(n_patches))
        if self.with_run:
            low = np.concatenate((low, np.zeros(RUN_FEATURES)))
            high = np.concatenate((high, (1, np.inf, 1)))
        box = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        return cast("spaces.Space[NDArray[np.float32]]", box)


def _unbounded(_n_patches: int) -> tuple[float, float]:
    return -math.inf, math.inf


def _shares(_n_patches: int) -> tuple[float, float]:
    return 0.0, 1.0


def _standardized_bounds(n_patches: int) -> tuple[float, float]:
    """A value is farthest from the mean if all others are the same; a single one, always 0."""
    farthest = math.sqrt(max(n_patches - 1, 1))
    return -farthest, farthest


OBSERVATIONS: dict[ObservationName, Observation] = {
    "attention_output": Observation(
        mean_attention_output, _unbounded, of_each=attention_output_of_each
    ),
    "attention_standardized": Observation(
        mean_attention_output, _standardized_bounds, of_each=standardized_attention_of_each,
        finish=standardized_attention,
    ),
    "attention_received": Observation(
        mean_attention_received, _shares,
        needs=("first_attention_weights", "the weights of its first attention layer"),
        of_each=attention_received_by_each,
    ),
    "class_attention": Observation(
        mean_class_attention, _shares, needs=("class_attention", "a class token"),
        of_each=class_attention_of_each,
    ),
    "none": Observation(zeros, _shares, of_each=zeros_of_each),
}  # fmt: skip
"""Every observation by its name; arguments also have layers and run features."""

_OF_LAYERS = ("attention_outputs", "the attention outputs of its layers")


def make_observation(text: str, n_images: int | None = None) -> Observation:
    """The observation that a text names.

    Args:
        text: such as `attention_output:0,3,5+run`, see `parse_observation`.
        n_images: of a batch that it is computed on, the first ones; None for all.

    Raises:
        ArgumentError: for a text that names none.
    """
    name, layers, with_run = parse_observation(text)
    observation = OBSERVATIONS[name]
    mean, needs, of_each = observation.mean, observation.needs, observation.of_each
    if layers != (0,):
        mean, needs = partial(mean, layers=layers), _OF_LAYERS
        of_each = None if of_each is None else partial(of_each, layers=layers)
    return observation._replace(
        mean=mean, with_run=with_run, needs=needs, of_each=of_each, n_images=n_images
    )


def check_observable(text: str, model: Any, n_layers: int | None, name: str) -> None:
    """Refuse a model that an observation cannot be computed of.

    Args:
        text: that names the observation.
        model: the model, or its class.
        n_layers: of the model; None if it does not say.
        name: of the model, for the message.

    Raises:
        ArgumentError: if it lacks a method or a layer, or drops tokens before the layers.
    """
    needs = make_observation(text).needs
    if needs is not None and not hasattr(model, needs[0]):
        method, words = needs
        raise ArgumentError(
            "observation",
            f"{text} needs a {named('model')} with {words} ({method}), got {name}",
        )
    if needs != _OF_LAYERS:
        return
    if n_layers is None:
        raise ArgumentError(
            "observation", f"{text} needs a {named('model')} with n_layers, got {name}"
        )
    if getattr(model, "reduces_tokens", False):
        raise ArgumentError(
            "observation",
            f"{text} needs a {named('model')} that has all patches in every layer, got {name}",
        )
    check_layers(text, n_layers)
