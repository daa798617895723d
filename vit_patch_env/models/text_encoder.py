"""A text classifier that takes the tokens to keep: BERT of Hugging Face transformers.

Devlin et al. 2018 (https://arxiv.org/abs/1810.04805). Only the embedding differs from a ViT's:
that of words in place of patches.
"""

import importlib.util
import re
from typing import Any

import torch
from torch import Tensor, nn

from vit_patch_env.checks import ArgumentError, InputError, check_integer
from vit_patch_env.data.texts import CLASS_TOKEN, PADDING
from vit_patch_env.patches.selection import select_tokens


class TextEncoder(nn.Module):
    """BERT with patch selection, where a patch is a token of a text.

    The class token is always kept. Positions follow the tokens, so that a kept token has the
    position that it has in its text. No token attends to padding.

    Args:
        plain_model: of the class `BertForSequenceClassification`, with any weights; trained in
            place.
        n_tokens: tokens of a text, without the class token.

    Attributes:
        plain_model: the same.
        n_patches: tokens of a text.
        n_prefix_tokens: the class token.

    Raises:
        ArgumentError: for a model of another class or with too few positions.
    """

    n_prefix_tokens = 1
    head_names = ("classifier",)

    def __init__(self, plain_model: nn.Module, n_tokens: int) -> None:
        super().__init__()
        name = type(plain_model).__name__
        if name != "BertForSequenceClassification":
            raise ArgumentError(
                "plain_model", f"must be a BertForSequenceClassification, got {name}"
            )
        config: Any = plain_model.config
        check_integer(1, config.max_position_embeddings - 1, n_tokens=n_tokens)
        self.plain_model: Any = plain_model
        self.n_patches = n_tokens
        self.n_layers = int(config.num_hidden_layers)

    def layer_of(self, name: str) -> int:
        """The layer of a parameter: 0 for the embedding, i + 1 for block i, then the head.

        Args:
            name: of this module's parameter, or of the library's.
        """
        if block := re.search(r"encoder\.layer\.(\d+)\.", name):
            return int(block[1]) + 1
        return 0 if "bert.embeddings." in name else self.n_layers + 1

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits (batch, n_classes) of texts.

        Args:
            images: token ids (batch, n_tokens) int64.
            keep: int64 indices of the tokens to compute with, (n_keep,), or (batch, n_keep) for
                others in each text; None for all. Dropped tokens cost nothing: they are removed
                before the embedding.
        """
        ids, positions = self._tokens(images, keep)
        # As a bias, since transformers would look at the values of a mask, which FLOPs lack.
        bias = _bias(ids, torch.float32)
        output = self.plain_model(input_ids=ids, position_ids=positions, attention_mask=bias)
        return output.logits  # type: ignore[no-any-return]

    def first_attention(self, images: Tensor) -> Tensor:
        """The first attention layer's output (batch, n_tokens, dim) on all tokens.

        0 for padding.
        """
        ids, hidden = self._embedded(images)
        attention = self.plain_model.bert.encoder.layer[0].attention
        context, _ = attention.self(hidden, attention_mask=_bias(ids, hidden.dtype))
        output = attention.output.dense(context) * (ids != PADDING)[..., None]
        return output[:, self.n_prefix_tokens :]  # type: ignore[no-any-return]

    def first_attention_weights(self, images: Tensor) -> Tensor:
        """The first layer's attention (batch, heads, queries, keys) among all tokens.

        Each query's row sums to 1: the class token and padding are excluded before the softmax.
        The row of padding is the mean of those of the text's tokens, so that the attention that a
        token receives is that of the text.
        """
        ids, query, key = self._first_query_and_key(images)
        ids, query, key = ids[:, 1:], query[:, :, 1:], key[:, :, 1:]
        weights = _softmax(query, key, ids)
        real = (ids != PADDING)[:, None, :, None]  # (batch, 1, queries, 1)
        mean = (weights * real).sum(dim=2, keepdim=True) / real.sum(dim=2, keepdim=True).clamp(1)
        return torch.where(real, weights, mean)

    def class_attention(self, images: Tensor) -> Tensor:
        """Attention of the class token to each token in the first layer: (batch, n_tokens).

        The mean over the heads, of a softmax over all tokens.
        """
        ids, query, key = self._first_query_and_key(images)
        return _softmax(query[:, :, :1], key, ids).mean(dim=1)[:, 0, 1:]

    def _tokens(self, images: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Ids (batch, 1 + n_keep) with the class token, and positions, of all alike in one row."""
        ids = nn.functional.pad(select_tokens(images, keep), (1, 0), value=CLASS_TOKEN)
        if keep is None:
            keep = torch.arange(self.n_patches, device=images.device)
        positions = nn.functional.pad(keep + 1, (1, 0))
        return ids, positions if keep.ndim == 2 else positions[None]

    def _embedded(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (batch, 1 + n_tokens) with the class token, and their embedding."""
        ids, positions = self._tokens(images, None)
        return ids, self.plain_model.bert.embeddings(input_ids=ids, position_ids=positions)

    def _first_query_and_key(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, and the first layer's queries, scaled, and keys: (batch, heads, n, dim_head)."""
        ids, hidden = self._embedded(images)
        layer = self.plain_model.bert.encoder.layer[0].attention.self
        query, key = (
            product(hidden).unflatten(2, (layer.num_attention_heads, -1)).transpose(1, 2)
            for product in (layer.query, layer.key)
        )
        return ids, query * layer.scaling, key


def _bias(ids: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores so that nothing attends to padding: (batch, 1, 1, n_tokens)."""
    lowest = torch.finfo(dtype).min
    bias = torch.zeros(ids.shape, dtype=dtype, device=ids.device)
    return bias.masked_fill(ids == PADDING, lowest)[:, None, None]


def _softmax(query: Tensor, key: Tensor, ids: Tensor) -> Tensor:
    """Attention (batch, heads, queries, keys), in float32, none of it to padding."""
    scores = (query @ key.transpose(2, 3)).float()
    return (scores + _bias(ids, scores.dtype)).softmax(dim=-1)


def bert_encoder(
    n_classes: int,
    n_words: int,
    *,
    n_tokens: int = 32,
    dim: int = 128,
    depth: int = 4,
    heads: int = 4,
    mlp_dim: int = 512,
) -> TextEncoder:
    """A BERT with new weights from torch's global generator, without dropout, as our ViTs.

    As the environment's `model`, which gives the first two; the others with `functools.partial`.

    Args:
        n_classes: outputs.
        n_words: size of the vocabulary, special tokens included.
        n_tokens: tokens of a text.
        dim: token size.
        depth: transformer layers.
        heads: attention heads per layer, which divide `dim`.
        mlp_dim: hidden size of a layer's MLP.

    Raises:
        ArgumentError: for a size out of range, or without transformers.
    """
    check_transformers()
    from transformers import BertConfig, BertForSequenceClassification  # takes seconds

    check_integer(1, dim=dim, depth=depth, heads=heads, mlp_dim=mlp_dim, n_tokens=n_tokens)
    if dim % heads:
        raise ArgumentError("heads", f"must divide dim, got {heads} and dim {dim}")
    config: Any = BertConfig  # with arguments that its signature lacks
    config = config(
        vocab_size=n_words,
        hidden_size=dim,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=mlp_dim,
        max_position_embeddings=n_tokens + 1,
        num_labels=n_classes,
        pad_token_id=PADDING,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return TextEncoder(BertForSequenceClassification(config), n_tokens)


def check_transformers() -> None:
    """Refuse to make a text encoder without transformers, in one line."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError(
            "expected transformers for a text encoder: pip install 'vit-patch-env[hf]', got none"
        )
