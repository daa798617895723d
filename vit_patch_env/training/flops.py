"""FLOPs of training steps, counted by torch on shapes, without computing them."""

import copy
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vit_patch_env.system.torch_state import lending_global_state, own_torch_state

_FITTED_AFTER = 3
"""Numbers of patches that are counted one by one before a polynomial is tried."""


class FlopCount:
    """Counts the FLOPs of matrix products that a model's steps take.

    A multiplication and an addition are two FLOPs; attention counts as its two products, whatever
    kernel computes it.

    Args:
        model: counted on a copy of its own. The images' shape is enough, unless the model has
            `data_dependent = True` or cannot be run without values: then they are computed with.

    Attributes:
        computed: whether the images' values may decide over the count.
    """

    def __init__(self, model: nn.Module) -> None:
        self.computed = bool(getattr(model, "data_dependent", False))
        self.model = model
        with own_torch_state(model=model):
            self._shapes = copy.deepcopy(model).to("meta")
        self._curves: defaultdict[Any, _Curve] = defaultdict(_Curve)

    def train_step(self, images: Tensor, n_keep: int | None, **options: Any) -> int:
        """FLOPs forward and backward on `n_keep` patches (None: all) of images.

        A ViT's FLOPs grow with the number of tokens and its square. Where seven numbers of patches
        confirm that, those of others follow from three of them, as counting takes longer than a
        step of a small ViT.

        Args:
            images: normalised, (batch, channels, height, width).
            n_keep: patches kept.
            options: for the model's forward pass.
        """
        n_patches = getattr(self.model, "n_patches", None)
        if n_keep is None or n_patches is None or self.computed:
            return self._train_step(images, n_keep, options)
        curve = self._curves[(images.shape, *sorted(options.items()))]
        return curve.at(n_keep, n_patches, lambda one: self._train_step(images, one, options))

    def _train_step(self, images: Tensor, n_keep: int | None, options: dict[str, Any]) -> int:

        def step(model: Any, images: Tensor) -> None:
            model.train()
            keep = None if n_keep is None else torch.arange(n_keep, device=images.device)
            model(images, keep, **options).sum().backward()

        with own_torch_state(model=self.model):
            return self._count(step, images)

    def forward(self, function: Callable[[Any, Tensor], Any], images: Tensor) -> int:
        """FLOPs of a function of model and images, without gradients."""
        with own_torch_state(gradients=False, model=self.model):
            return self._count(function, images)

    def _count(self, function: Callable[[Any, Tensor], Any], images: Tensor) -> int:
        if not self.computed:
            try:
                return _counted(function, self._shapes, images.to("meta"))
            except RuntimeError:  # what torch raises where a value is asked for
                self.computed = True
        return _counted(function, copy.deepcopy(self.model), images)


class _Curve:
    """A step's FLOPs by the number of patches: counted at some, the others by a polynomial."""

    def __init__(self) -> None:
        self._counted: dict[int, int] = {}
        self._fit: Callable[[int], int] | None = None
        self._tried = False

    def at(self, n_keep: int, n_patches: int, count: Callable[[int], int]) -> int:
        """FLOPs on `n_keep` of `n_patches` patches, which `count` counts."""
        counted = self._counted
        if n_keep not in counted and len(counted) >= _FITTED_AFTER and not self._tried:
            self._tried = True
            self._fit = self._fitted(n_patches, count)
        if n_keep not in counted:
            if self._fit is not None:
                return self._fit(n_keep)
            counted[n_keep] = count(n_keep)
        return counted[n_keep]

    def _fitted(self, n_patches: int, count: Callable[[int], int]) -> Callable[[int], int] | None:
        """The polynomial through three places, if it is right at all others that are counted."""
        counted = self._counted
        places = sorted({1, max(n_patches // 3, 1), max(2 * n_patches // 3, 1), n_patches})
        for place in places:
            if place not in counted:
                counted[place] = count(place)
        *fitted, _ = places
        if len(fitted) < 3:
            return None
        fit = _parabola([(place, counted[place]) for place in fitted])
        return fit if all(fit(place) == flops for place, flops in counted.items()) else None


def _parabola(points: list[tuple[int, int]]) -> Callable[[int], int]:
    """The polynomial of degree 2 through three points of integers (Lagrange's form)."""
    (a, at_a), (b, at_b), (c, at_c) = points

    def value(x: int) -> int:
        return round(
            Fraction(at_a * (x - b) * (x - c), (a - b) * (a - c))
            + Fraction(at_b * (x - a) * (x - c), (b - a) * (b - c))
            + Fraction(at_c * (x - a) * (x - b), (c - a) * (c - b))
        )

    return value


def _counted(function: Callable[[Any, Tensor], Any], model: nn.Module, images: Tensor) -> int:
    # As plain products: torch counts recomputation in CUDA's fused kernels, and no CPU's at all.
    with (
        lending_global_state(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        function(model, images)
    return int(counter.get_total_flops())


def uncountable(reason: object) -> ValueError:
    """The error to raise where FLOPs are needed and cannot be counted, in one line."""
    first, *_ = str(reason).splitlines() or [type(reason).__name__]
    return ValueError(
        "budget flops and reward progress need a model whose FLOPs can be counted, got one with: "
        f"{first}"
    )


class ReferenceCost:
    """FLOPs of a training step of a reference model: what budgets of FLOPs are counted in.

    Args:
        make_model: the model, with weights that are the same in every call.
        images: (batch, channels, height, width), of which the shape counts.
    """

    def __init__(self, make_model: Callable[[], nn.Module], images: Tensor) -> None:
        self._make_model = make_model
        self._images = images
        self._counter: FlopCount | None = None
        self._known: dict[int | None, int] = {}

    def step(self, n_keep: int | None) -> int:
        """FLOPs of a step on so many patches (None: all).

        Raises:
            ValueError: if they cannot be counted.
        """
        if n_keep not in self._known:
            try:
                if self._counter is None:
                    self._counter = FlopCount(self._make_model())
                flops = self._counter.train_step(self._images, n_keep)
            except Exception as error:  # whatever counting makes a user's model raise
                raise uncountable(error) from error
            if not flops:
                raise uncountable("0 FLOPs per step")
            self._known[n_keep] = flops
        return self._known[n_keep]
