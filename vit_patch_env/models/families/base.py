"""A library's ViT with the model contract of this package."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vit_patch_env.checks import ArgumentError, InputError, named
from vit_patch_env.models.families.cpu_training import quick_attention
from vit_patch_env.models.layers.attention import attention_weights

Block = Callable[[Tensor], Tensor]


class LibraryViT(nn.Module, ABC):
    """A library's own ViT, whose forward pass takes the patches to keep.

    The library's module is neither copied nor changed: its layers are called one by one on the kept
    tokens. On all patches the logits are the library's. Prefix tokens are always kept.

    Args:
        plain_model: of the library.
        image_size: height and width, in pixels.
        patch_size: height and width, in pixels.

    Raises:
        ArgumentError: for an image that patches do not divide.

    Attributes:
        plain_model: the library's module; its `state_dict` has the library's names.
        image_size: height and width, in pixels.
        patch_size: height and width, in pixels.
        channels: of the images.
        grid: rows and columns of patches.
        n_patches: of an image.
        n_prefix_tokens: class, distillation and register tokens, before the patches'.
        has_class_token: whether the first of them is a class token.
        n_layers: transformer layers.
    """

    n_prefix_tokens: int
    has_class_token: bool
    n_layers: int
    channels: int
    checkpointing = False
    """Whether blocks are computed again in backward passes here, as in the library's model."""

    head_names: ClassVar[tuple[str, ...]]
    """The layers of the library's module that are replaced for other classes."""

    _blocks_named: ClassVar[re.Pattern[str]]
    """Names of a block's parameters, with its index as the first group."""

    _embedding_named: tuple[str, ...]
    """Beginnings of the names of what comes before the blocks."""

    def __init__(
        self, plain_model: nn.Module, *, image_size: Sequence[int], patch_size: Sequence[int]
    ) -> None:
        super().__init__()
        height, width = image_size
        if height < patch_size[0] or height % patch_size[0] or width % patch_size[1]:
            raise ArgumentError(
                "image_size",
                f"must be divisible by {named('patch_size')} of the model, "
                f"{list(patch_size)}, got {[height, width]}",
            )
        self.plain_model: Any = plain_model
        self.image_size = (height, width)
        self.patch_size = (patch_size[0], patch_size[1])
        self.grid = (height // self.patch_size[0], width // self.patch_size[1])
        self.n_patches = self.grid[0] * self.grid[1]
        self._keep: Tensor | None = None

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits (batch, n_classes) of normalised images (batch, channels, height, width).

        Args:
            images: of the model's size.
            keep: int64 indices of the patches to compute with, ascending: (n_keep,), or
                (batch, n_keep) for a selection per image; on any device. None for those of
                `patches`, or all.

        Raises:
            InputError: for images or indices of another shape.
        """
        keep = self._keep if keep is None else keep
        self._check(images, keep)
        keep = None if keep is None else keep.to(images.device)
        # A block that is computed again would be so by torch's kernel, which saves other tensors.
        quick = self.training and not self.recomputes
        with quick_attention(images) if quick else nullcontext():
            tokens = self.embed(images, keep)
            for block in self.blocks(keep):
                if self.checkpointing and self.training:
                    tokens = checkpoint(block, tokens, use_reentrant=False)
                else:
                    tokens = block(tokens)
            return self.classify(tokens)

    @property
    def recomputes(self) -> bool:
        """Whether blocks are computed again in backward passes, to save memory."""
        return self.checkpointing

    @contextmanager
    def patches(self, keep: Tensor | None) -> Iterator[None]:
        """Within the block, `model(images)` computes with these patches only.

        For training loops that call the model themselves; elsewhere `model(images, keep)`.

        Args:
            keep: as for `forward`.
        """
        before, self._keep = self._keep, keep
        try:
            yield
        finally:
            self._keep = before

    @abstractmethod
    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """The first block's input: (batch, n_prefix_tokens + n_keep, dim)."""

    @abstractmethod
    def blocks(self, keep: Tensor | None = None) -> Sequence[Block]:
        """The transformer layers, each a function of the tokens of the kept patches."""

    @abstractmethod
    def classify(self, tokens: Tensor) -> Tensor:
        """Logits (batch, n_classes) from the last block's output."""

    @abstractmethod
    def attention_module(self, layer: int) -> nn.Module:
        """The attention of a layer, which puts out (batch, n_tokens, dim), or a tuple with it."""

    @abstractmethod
    def attend(self, layer: int, tokens: Tensor) -> Tensor:
        """Output of a layer's attention on the tokens of all patches: (batch, n_tokens, dim)."""

    @abstractmethod
    def query_key(self, tokens: Tensor) -> tuple[Tensor, Tensor, float]:
        """Query and key of the first layer, (batch, heads, n_tokens, dim_head), and their scale."""

    def first_attention(self, images: Tensor) -> Tensor:
        """The first attention layer's output (batch, n_patches, dim) on all patches."""
        return self.attend(0, self.embed(images))[:, self.n_prefix_tokens :]

    def first_attention_weights(self, images: Tensor) -> Tensor:
        """The first layer's attention (batch, heads, queries, keys) among all patches.

        Each query's row sums to 1: prefix tokens are excluded before the softmax.
        """
        query, key, scale = self.query_key(self.embed(images))
        first = self.n_prefix_tokens
        return attention_weights(query[:, :, first:], key[:, :, first:], scale)

    def class_attention(self, images: Tensor) -> Tensor:
        """The class token's attention to each patch: (batch, n_patches), in [0, 1].

        In the first layer, averaged over its heads; the softmax is over all tokens.

        Raises:
            InputError: for a model without a class token.
        """
        if not self.has_class_token:
            raise InputError(
                "class_attention needs a model with a class token, got "
                f"{type(self.plain_model).__name__} without one"
            )
        query, key, scale = self.query_key(self.embed(images))
        weights = attention_weights(query[:, :, :1], key, scale)  # (batch, heads, 1, n_tokens)
        return weights.mean(dim=(1, 2))[:, self.n_prefix_tokens :]

    def attention_outputs(self, images: Tensor, layers: Sequence[int]) -> Tensor:
        """Attention outputs of layers on all patches: (len(layers), batch, n_patches, dim).

        Args:
            images: normalised images.
            layers: their indices from 0; later layers are not computed.

        Raises:
            InputError: for a layer that the model does not have.
        """
        for layer in layers:
            if not 0 <= layer < self.n_layers:
                raise InputError(f"layers must be in [0, {self.n_layers - 1}], got {layer}")
        last, found = max(layers), {}
        tokens = self.embed(images)
        for layer, block in enumerate(self.blocks()):
            if layer == last:
                found[layer] = self.attend(layer, tokens)
                break
            if layer in layers:
                with _recorded(self.attention_module(layer)) as outputs:
                    tokens = block(tokens)
                found[layer] = outputs[0]
            else:
                tokens = block(tokens)
        return torch.stack([found[layer][:, self.n_prefix_tokens :] for layer in layers])

    def layer_of(self, parameter_name: str) -> int:
        """The layer of a parameter, for learning rates by layer.

        0 for the embedding, positions and prefix tokens, i + 1 for block i, n_layers + 1 for what
        comes after the blocks.

        Args:
            parameter_name: of this module, or of the library's.
        """
        name = parameter_name.removeprefix("plain_model.")
        if block := self._blocks_named.match(name):
            return int(block[1]) + 1
        return 0 if name.startswith(self._embedding_named) else self.n_layers + 1

    def _check(self, images: Tensor, keep: Tensor | None) -> None:
        expected = (self.channels, *self.image_size)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise InputError(
                f"images must have shape (batch, {', '.join(map(str, expected))}), "
                f"got {tuple(images.shape)}"
            )
        if keep is not None and (keep.ndim != 1 and (keep.ndim != 2 or len(keep) != len(images))):
            raise InputError(
                f"keep must have shape (n_keep,) or ({len(images)}, n_keep), "
                f"got {tuple(keep.shape)}"
            )


@contextmanager
def _recorded(module: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of a module within the block."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(
        lambda _module, _inputs, output: outputs.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    try:
        yield outputs
    finally:
        handle.remove()
