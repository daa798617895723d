"""timm's ViTs: `VisionTransformer`, which DeiT and many others share, and `Eva`, with DINOv3."""

import difflib
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vit_patch_env.checks import ArgumentError, InputError, shown
from vit_patch_env.models.families.base import Block, LibraryViT
from vit_patch_env.models.families.embedding import embed_patches, positions_of, with_prefix
from vit_patch_env.models.layers.attention import split_heads

_REASONS = {
    "beit": "its relative position bias is of the whole grid",
    "cait": "its class token comes after blocks whose attention mixes all heads",
    "vision_transformer_relpos": "its relative position bias is of the whole grid",
    "vision_transformer_sam": "its blocks attend within windows",
    "naflexvit": "it takes patches instead of images",
}
"""Why models of a module of timm cannot drop patches, where it is not windows or pooling."""

_PREFIX_TOKENS = ("cls_token", "dist_token", "reg_token")


class TimmViT(LibraryViT):
    """A `VisionTransformer` or `Eva` of timm."""

    head_names = ("head", "head_dist")
    _blocks_named = re.compile(r"blocks\.(\d+)\.")
    _embedding_named = (*_PREFIX_TOKENS, "pos_embed", "patch_embed", "norm_pre", "rope")

    def __init__(self, plain_model: Any) -> None:
        cut = plain_model.patch_embed
        super().__init__(plain_model, image_size=cut.img_size, patch_size=cut.patch_size)
        self.channels = cut.proj.in_channels
        self.n_prefix_tokens = plain_model.num_prefix_tokens
        self.has_class_token = plain_model.cls_token is not None
        self.n_layers = len(plain_model.blocks)

    @property
    def checkpointing(self) -> bool:  # type: ignore[override]
        """Whether timm's model recomputes its blocks in backward passes."""
        return bool(self.plain_model.grad_checkpointing)

    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """The first block's input: (batch, n_prefix_tokens + n_keep, dim)."""
        plain = self.plain_model
        tokens = plain.patch_embed.norm(embed_patches(plain.patch_embed.proj, images, keep))
        prefix = torch.cat(
            [
                token[0]
                for name in _PREFIX_TOKENS
                if (token := getattr(plain, name, None)) is not None
            ]
            or [tokens.new_empty(0, tokens.shape[2])]
        )
        if plain.pos_embed is not None:
            positions = plain.pos_embed[0]
            if not plain.no_embed_class:
                prefix = prefix + positions[: self.n_prefix_tokens]
                positions = positions[self.n_prefix_tokens :]
            tokens = tokens + positions_of(positions, keep)
        return plain.norm_pre(plain.pos_drop(with_prefix(prefix, tokens)))  # type: ignore[no-any-return]

    def blocks(self, keep: Tensor | None = None) -> Sequence[Block]:
        """The transformer layers; rotary positions are those of the kept patches."""
        ropes = self._rotary_positions(keep)
        blocks: Any = self.plain_model.blocks
        if ropes is None:
            return blocks  # type: ignore[no-any-return]
        return [partial(block, rope=rope) for block, rope in zip(blocks, ropes, strict=True)]

    def classify(self, tokens: Tensor) -> Tensor:
        """Logits (batch, n_classes) from the last block's output."""
        plain = self.plain_model
        return plain.forward_head(plain.norm(tokens))  # type: ignore[no-any-return]

    def attention_module(self, layer: int) -> nn.Module:
        """The attention of a layer.

        Raises:
            InputError: for blocks that compute attention and MLP in one.
        """
        block = self.plain_model.blocks[layer]
        if not isinstance(getattr(block, "attn", None), nn.Module):
            raise InputError(
                "an observation of attention needs blocks with an attention layer of its own, got "
                f"{type(block).__name__}"
            )
        return block.attn  # type: ignore[no-any-return]

    def attend(self, layer: int, tokens: Tensor) -> Tensor:
        """Output of a layer's attention on the tokens of all patches: (batch, n_tokens, dim)."""
        attention = self.attention_module(layer)
        ropes = self._rotary_positions(None)
        options = {} if ropes is None else {"rope": ropes[layer]}
        return attention(self._attention_input(layer, tokens), **options)  # type: ignore[no-any-return]

    def query_key(self, tokens: Tensor) -> tuple[Tensor, Tensor, float]:
        """Query and key of the first layer, (batch, heads, n_tokens, dim_head), and their scale.

        Raises:
            InputError: for an attention layer that has two of them.
        """
        attention: Any = self.attention_module(0)
        if not hasattr(attention, "q_norm"):
            raise InputError(
                "an observation of attention weights needs one query per head, got "
                f"{type(attention).__name__}"
            )
        query, key = _projected(attention, self._attention_input(0, tokens))
        query, key = attention.q_norm(query), attention.k_norm(key)
        ropes = self._rotary_positions(None)
        if ropes is not None:
            query, key = (self._rotated(one, ropes[0], attention) for one in (query, key))
        groups = query.shape[1] // key.shape[1]  # queries that share a key
        return query, key.repeat_interleave(groups, dim=1), attention.scale

    def _attention_input(self, layer: int, tokens: Tensor) -> Tensor:
        """What a block gives to its attention: normalised tokens, unless it normalises later."""
        block = self.plain_model.blocks[layer]
        later = type(block).__name__ in ("ResPostBlock", "EvaBlockPostNorm")
        return tokens if later else block.norm1(tokens)

    def _rotary_positions(self, keep: Tensor | None) -> Sequence[Tensor] | None:
        """Rotary positions of the kept patches for each layer; None for a model without any."""
        from timm.layers.pos_embed_sincos import apply_keep_indices_nlc  # an optional package

        plain = self.plain_model
        if getattr(plain, "rope", None) is None:
            return None
        cached = not plain.dynamic_img_size and hasattr(plain.rope, "feat_shape")
        rope = plain.rope.get_embed() if cached else plain.rope.get_embed(shape=self.grid)
        by_layer = bool(plain.rope_mixed)  # (depth, heads, n_patches, dim)
        if keep is not None and keep.ndim == 1:
            rope = rope.index_select(-2, keep)
        elif keep is not None:
            rope = apply_keep_indices_nlc(keep, rope, keep)  # (batch, ..., n_keep, dim)
            rope = rope.transpose(0, 1) if by_layer else rope[:, None]
        return list(rope) if by_layer else [rope] * self.n_layers

    def _rotated(self, heads: Tensor, rope: Tensor, attention: Any) -> Tensor:
        """Queries or keys with the patches' rotated by their positions."""
        from timm.layers.pos_embed_sincos import apply_rot_embed_cat  # an optional package

        first = self.n_prefix_tokens
        patches = apply_rot_embed_cat(heads[:, :, first:], rope, half=attention.rotate_half)
        return torch.cat((heads[:, :, :first], patches.type_as(heads)), dim=2)


def _projected(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Query and key of tokens, (batch, heads, n_tokens, dim_head); keys may have fewer heads."""
    if attention.qkv is None or getattr(attention, "q_proj", None) is not None:
        projected = attention.q_proj(tokens), attention.k_proj(tokens)
        query, key = (
            one.unflatten(2, (-1, attention.head_dim)).transpose(1, 2) for one in projected
        )
        return query, key
    qkv = attention.qkv(tokens)
    if getattr(attention, "q_bias", None) is not None:  # apart from the layer's weights
        qkv = qkv + torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    query, key, _ = split_heads(qkv, 3, attention.num_heads)
    return query, key


def wrap(model: nn.Module) -> LibraryViT | None:
    """The adapter of a model of timm; None for another module.

    Raises:
        InputError: for a model of timm that cannot drop patches, with the reason.
    """
    if not type(model).__module__.startswith("timm.") and not _is_plain(model):
        return None
    if reason := _problem(model):
        name = getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__
        raise ArgumentError("model", f"timm:{name} cannot drop patches: {reason}")
    return TimmViT(model)


def _is_plain(model: nn.Module) -> bool:
    from timm.models.eva import Eva  # an optional package
    from timm.models.vision_transformer import VisionTransformer

    return any(
        isinstance(model, kind)
        and type(model).forward is kind.forward
        and type(model).forward_features is kind.forward_features
        for kind in (Eva, VisionTransformer)
    )


def _problem(model: Any) -> str | None:
    """Why a model of timm cannot drop patches; None if it can."""
    from timm.layers.patch_embed import PatchEmbed  # an optional package

    if not _is_plain(model):
        module = type(model).__module__.rpartition(".")[2]
        general = f"{type(model).__name__} is no plain ViT, whose layers take any set of patches"
        return _REASONS.get(module, general)
    if not isinstance(model.patch_embed, PatchEmbed):
        embedding = type(model.patch_embed).__name__
        return f"its patches are embedded by a network over the whole image ({embedding})"
    if model.patch_embed.img_size is None:
        return "it has no image size"
    if not isinstance(model.patch_drop, nn.Identity | None):
        return "it drops patches itself: make it with patch_drop_rate 0"
    return None


def make(
    name: str,
    *,
    n_classes: int,
    channels: int,
    image_size: tuple[int, int] | None,
    patch_size: int | None,
    **_: Any,
) -> nn.Module:
    """The model of timm of that name, with fresh weights.

    Raises:
        ArgumentError: for an unknown model, or a size that it does not take.
    """
    import timm  # an optional package

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = "".join(f", did you mean timm:{one}?" for one in close)
        raise ArgumentError("model", f"must be a model of timm, got {shown(f'timm:{name}')}{hint}")
    sizes = {"img_size": image_size, "patch_size": patch_size}
    given: dict[str, Any] = {key: value for key, value in sizes.items() if value is not None}
    return timm.create_model(name, num_classes=n_classes, in_chans=channels, **given)
