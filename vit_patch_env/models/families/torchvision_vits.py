"""torchvision's `VisionTransformer`."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from vit_patch_env.checks import ArgumentError, shown
from vit_patch_env.models.families.base import Block, LibraryViT
from vit_patch_env.models.families.embedding import embed_patches, positions_of, with_prefix
from vit_patch_env.models.layers.attention import split_heads


class TorchvisionViT(LibraryViT):
    """A `VisionTransformer` of torchvision."""

    n_prefix_tokens = 1
    has_class_token = True
    head_names = ("heads.head",)
    _blocks_named = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.")
    _embedding_named = ("class_token", "conv_proj", "encoder.pos_embedding")

    def __init__(self, plain_model: Any) -> None:
        size, patch = plain_model.image_size, plain_model.patch_size
        super().__init__(plain_model, image_size=(size, size), patch_size=(patch, patch))
        convolutions = (one for one in plain_model.conv_proj.modules() if hasattr(one, "stride"))
        self.channels = next(convolutions).in_channels
        self.n_layers = len(plain_model.encoder.layers)

    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """The first block's input: (batch, 1 + n_keep, dim)."""
        plain = self.plain_model
        positions = plain.encoder.pos_embedding[0]
        patches = embed_patches(plain.conv_proj, images, keep) + positions_of(positions[1:], keep)
        tokens = with_prefix(plain.class_token[0] + positions[:1], patches)
        return plain.encoder.dropout(tokens)  # type: ignore[no-any-return]

    def blocks(self, keep: Tensor | None = None) -> Sequence[Block]:
        """The transformer layers."""
        return self.plain_model.encoder.layers  # type: ignore[no-any-return]

    def classify(self, tokens: Tensor) -> Tensor:
        """Logits (batch, n_classes) from the last block's output."""
        plain = self.plain_model
        return plain.heads(plain.encoder.ln(tokens)[:, 0])  # type: ignore[no-any-return]

    def attention_module(self, layer: int) -> nn.Module:
        """The attention of a layer."""
        return self.plain_model.encoder.layers[layer].self_attention  # type: ignore[no-any-return]

    def attend(self, layer: int, tokens: Tensor) -> Tensor:
        """Output of a layer's attention on the tokens of all patches: (batch, n_tokens, dim)."""
        block = self.plain_model.encoder.layers[layer]
        normed = block.ln_1(tokens)
        output: Tensor = block.self_attention(normed, normed, normed, need_weights=False)[0]
        return output

    def query_key(self, tokens: Tensor) -> tuple[Tensor, Tensor, float]:
        """Query and key of the first layer, (batch, heads, n_tokens, dim_head), and their scale."""
        block = self.plain_model.encoder.layers[0]
        attention, rows = block.self_attention, 2 * tokens.shape[2]
        query_key = F.linear(
            block.ln_1(tokens), attention.in_proj_weight[:rows], attention.in_proj_bias[:rows]
        )
        query, key = split_heads(query_key, 2, attention.num_heads)
        return query, key, float(query.shape[3] ** -0.5)


def wrap(model: nn.Module) -> LibraryViT | None:
    """The adapter of a model of torchvision; None for another module.

    Raises:
        ArgumentError: for a model of torchvision that cannot drop patches, with the reason.
    """
    from torchvision.models import VisionTransformer  # takes a second

    if isinstance(model, VisionTransformer):
        return TorchvisionViT(model)
    if not type(model).__module__.startswith("torchvision."):
        return None
    raise ArgumentError(
        "model",
        f"torchvision:{type(model).__name__} cannot drop patches: it is no plain ViT, whose layers "
        "take any set of patches",
    )


def make(
    name: str,
    *,
    n_classes: int,
    channels: int,
    image_size: tuple[int, int] | None,
    patch_size: int | None,
    **_: Any,
) -> nn.Module:
    """The model of torchvision of that name, with fresh weights.

    Raises:
        ArgumentError: for an unknown model, or a size or channels that it does not take.
    """
    from torchvision import models  # takes a second

    if name not in models.list_models():
        close = difflib.get_close_matches(name, models.list_models(), n=1)
        hint = "".join(f", did you mean torchvision:{one}?" for one in close)
        got = shown(f"torchvision:{name}")
        raise ArgumentError("model", f"must be a model of torchvision, got {got}{hint}")
    if channels != 3:
        raise ArgumentError(
            "model", f"torchvision:{name} takes images of 3 channels, got {channels}"
        )
    options: dict[str, Any] = {"num_classes": n_classes}
    if image_size is not None and name.startswith("vit_"):
        if image_size[0] != image_size[1]:
            raise ArgumentError(
                "image_size",
                f"must be one side for torchvision:{name}, whose images are square, "
                f"got {image_size}",
            )
        options["image_size"] = image_size[0]
    model: nn.Module = models.get_model(name, weights=None, **options)
    if patch_size not in (None, getattr(model, "patch_size", patch_size)):
        raise ArgumentError(
            "patch_size", f"must be {model.patch_size}, torchvision:{name}'s own, got {patch_size}"
        )
    return model
