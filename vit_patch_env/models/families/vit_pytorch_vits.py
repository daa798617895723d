"""vit-pytorch's `SimpleViT` and `ViT`."""

import difflib
import math
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vit_patch_env.checks import ArgumentError, InputError, shown
from vit_patch_env.models.families.base import Block, LibraryViT
from vit_patch_env.models.families.embedding import positions_of, with_prefix
from vit_patch_env.models.layers.attention import split_heads
from vit_patch_env.patches.selection import select_tokens

_PLAIN = ("SimpleViT", "ViT")


class VitPytorchViT(LibraryViT):
    """A `SimpleViT` or `ViT` of vit-pytorch.

    Args:
        plain_model: of the library.
        image_size: height and width, in pixels, which the library's module does not store.
    """

    head_names = ("linear_head", "mlp_head")
    _blocks_named = re.compile(r"transformer\.layers\.(\d+)\.")
    _embedding_named = ("cls_token", "pos_embedding", "to_patch_embedding")

    def __init__(self, plain_model: Any, image_size: tuple[int, int]) -> None:
        super().__init__(plain_model, image_size=image_size, patch_size=plain_model.patch_size)
        patch_dim = plain_model.to_patch_embedding[1].normalized_shape[0]
        self.channels = patch_dim // math.prod(self.patch_size)
        self.n_prefix_tokens = _n_prefix_tokens(plain_model)
        self.has_class_token = self.n_prefix_tokens > 0
        self.n_layers = len(plain_model.transformer.layers)

    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """The first block's input: (batch, n_prefix_tokens + n_keep, dim)."""
        plain, n_prefix = self.plain_model, self.n_prefix_tokens
        cut, *embedding = plain.to_patch_embedding
        tokens = select_tokens(cut(images), keep)
        for layer in embedding:
            tokens = layer(tokens)
        # SimpleViT's are not moved to a device with its weights.
        positions = plain.pos_embedding.to(tokens.device, tokens.dtype)
        tokens = tokens + positions_of(positions[n_prefix:], keep)
        if n_prefix:
            tokens = with_prefix(plain.cls_token + positions[:n_prefix], tokens)
        return plain.dropout(tokens) if hasattr(plain, "dropout") else tokens

    def blocks(self, keep: Tensor | None = None) -> Sequence[Block]:
        """The transformer layers, as the library's `Transformer` calls their parts."""
        return [_Block(*parts) for parts in self.plain_model.transformer.layers]

    def classify(self, tokens: Tensor) -> Tensor:
        """Logits (batch, n_classes) from the last block's output."""
        plain = self.plain_model
        tokens = plain.transformer.norm(tokens)
        pooled = tokens.mean(dim=1) if plain.pool == "mean" else tokens[:, 0]
        head = plain.mlp_head if hasattr(plain, "mlp_head") else plain.linear_head
        return head(plain.to_latent(pooled))  # type: ignore[no-any-return]

    def attention_module(self, layer: int) -> nn.Module:
        """The attention of a layer."""
        return self.plain_model.transformer.layers[layer][0]  # type: ignore[no-any-return]

    def attend(self, layer: int, tokens: Tensor) -> Tensor:
        """Output of a layer's attention on the tokens of all patches: (batch, n_tokens, dim)."""
        return self.attention_module(layer)(tokens)  # type: ignore[no-any-return]

    def query_key(self, tokens: Tensor) -> tuple[Tensor, Tensor, float]:
        """Query and key of the first layer, (batch, heads, n_tokens, dim_head), and their scale."""
        attention: Any = self.attention_module(0)
        query, key, _ = split_heads(attention.to_qkv(attention.norm(tokens)), 3, attention.heads)
        return query, key, attention.scale


class _Block:
    """A transformer layer from its attention and its MLP."""

    def __init__(self, attention: nn.Module, mlp: nn.Module) -> None:
        self.attention = attention
        self.mlp = mlp

    def __call__(self, tokens: Tensor) -> Tensor:
        tokens = self.attention(tokens) + tokens
        return self.mlp(tokens) + tokens  # type: ignore[no-any-return]


def _n_prefix_tokens(model: Any) -> int:
    return len(model.cls_token) if hasattr(model, "cls_token") else 0


def wrap(model: nn.Module, image_size: tuple[int, int] | None = None) -> LibraryViT | None:
    """The adapter of a model of vit-pytorch; None for another module.

    Args:
        model: any module.
        image_size: height and width, in pixels; None for a square image.

    Raises:
        InputError: for a model of vit-pytorch that cannot drop patches, with the reason.
    """
    from vit_pytorch import SimpleViT, ViT  # an optional package

    if type(model) not in (SimpleViT, ViT):
        if not type(model).__module__.startswith("vit_pytorch."):
            return None
        raise ArgumentError("model", f"vit_pytorch:{type(model).__name__} {_NOT_PLAIN}")
    if image_size is None:
        plain: Any = model
        side = math.isqrt(n_patches := len(plain.pos_embedding) - _n_prefix_tokens(plain))
        if side**2 != n_patches:
            raise InputError(
                "a model of vit-pytorch does not store its image size, which must be square, "
                f"got {n_patches} patches"
            )
        image_size = (side * plain.patch_size[0], side * plain.patch_size[1])
    return VitPytorchViT(model, image_size)


_NOT_PLAIN = "cannot drop patches: of vit-pytorch's models only SimpleViT and ViT can"


def make(
    name: str,
    *,
    n_classes: int,
    channels: int,
    image_size: tuple[int, int] | None,
    patch_size: int | None,
    **sizes: Any,
) -> nn.Module:
    """vit-pytorch's model of that name, with fresh weights.

    Raises:
        ArgumentError: for an unknown model, or one that cannot drop patches.
    """
    import vit_pytorch  # an optional package

    if name not in _PLAIN:
        if isinstance(getattr(vit_pytorch, name, None), type):
            raise ArgumentError("model", f"vit_pytorch:{name} {_NOT_PLAIN}")
        close = difflib.get_close_matches(name, _PLAIN, n=1, cutoff=0.3)
        hint = "".join(f", did you mean vit_pytorch:{one}?" for one in close)
        got = shown(f"vit_pytorch:{name}")
        raise ArgumentError("model", f"must be a model of vit-pytorch, got {got}{hint}")
    model: nn.Module = getattr(vit_pytorch, name)(
        image_size=image_size, patch_size=patch_size, num_classes=n_classes, channels=channels,
        **sizes,
    )  # fmt: skip
    return model
