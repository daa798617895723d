"""Hugging Face's ViT, DeiT and DINOv2 (with and without registers) for image classification."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vit_patch_env.checks import ArgumentError, shown
from vit_patch_env.data.downloads import may_download
from vit_patch_env.models.families.base import Block, LibraryViT
from vit_patch_env.models.families.embedding import embed_patches, positions_of, with_prefix
from vit_patch_env.models.families.hugging_face_config import check_type

_POSITIONED = ("cls_token", "distillation_token")
"""Prefix tokens that have a position; registers have none."""


class HuggingFaceViT(LibraryViT):
    """A ViT of transformers for image classification.

    `model(images, keep)` returns logits, as any model does. For Hugging Face's `Trainer`,
    `model(pixel_values=..., labels=...)` returns what the library's model returns.
    """

    has_class_token = True
    head_names = ("classifier", "cls_classifier", "distillation_classifier")
    _blocks_named = re.compile(r"\w+\.(?:encoder\.layer|layers)\.(\d+)\.")

    def __init__(self, plain_model: Any) -> None:
        self._embedding_named = (f"{plain_model.base_model_prefix}.embeddings",)
        base = getattr(plain_model, plain_model.base_model_prefix)
        cut = base.embeddings.patch_embeddings
        super().__init__(plain_model, image_size=cut.image_size, patch_size=cut.patch_size)
        self.channels = cut.num_channels
        self.n_prefix_tokens = len(self._prefix()) + self._n_registers
        self.n_layers = len(self._layers)

    def forward(
        self,
        images: Tensor | None = None,
        keep: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Any:
        """Logits (batch, n_classes) of `images`, or the library's output for `pixel_values`.

        Args:
            images: normalised images (batch, channels, height, width).
            keep: as for `LibraryViT`.
            pixel_values: images by the library's name: then the result is its
                `ImageClassifierOutput`, with `logits` and, for labels, `loss`.
            labels: classes (batch,), for the loss that the library's configuration names.
        """
        if pixel_values is None:
            return super().forward(images, keep)  # type: ignore[arg-type]
        from transformers.modeling_outputs import ImageClassifierOutput  # an optional package

        logits = super().forward(pixel_values, keep)
        plain = self.plain_model
        loss = None if labels is None else plain.loss_function(labels, logits, plain.config)
        return ImageClassifierOutput(loss=loss, logits=logits)

    @property
    def recomputes(self) -> bool:
        """Whether the library's layers compute themselves again in backward passes."""
        plain, name = self.plain_model, "is_activation_checkpointing"
        return bool(getattr(plain, name if hasattr(plain, name) else "is_gradient_checkpointing"))

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Recompute activations in backward passes, as `Trainer` asks for."""
        self.plain_model.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """The same by its name before transformers 5.24."""
        self.plain_model.gradient_checkpointing_enable(**options)

    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """The first block's input: (batch, n_prefix_tokens + n_keep, dim)."""
        embeddings, positioned = self._base.embeddings, self._prefix()
        positions = embeddings.position_embeddings[0]
        patches = embed_patches(embeddings.patch_embeddings.projection, images, keep)
        patches = patches + positions_of(positions[len(positioned) :], keep)
        prefix = torch.cat(positioned) + positions[: len(positioned)]
        if self._n_registers:
            prefix = torch.cat((prefix, embeddings.register_tokens[0]))
        return embeddings.dropout(with_prefix(prefix, patches))  # type: ignore[no-any-return]

    def blocks(self, keep: Tensor | None = None) -> Sequence[Block]:
        """The transformer layers."""
        return self._layers  # type: ignore[no-any-return]

    def classify(self, tokens: Tensor) -> Tensor:
        """Logits (batch, n_classes) from the last block's output."""
        plain, tokens = self.plain_model, self._base.layernorm(tokens)
        if hasattr(plain, "cls_classifier"):  # DeiT with a teacher
            logits = plain.cls_classifier(tokens[:, 0])
            return (logits + plain.distillation_classifier(tokens[:, 1])) / 2  # type: ignore[no-any-return]
        features = tokens[:, 0]
        if plain.config.model_type.startswith("dinov2"):
            mean = tokens[:, self.n_prefix_tokens :].mean(dim=1)
            features = torch.cat((features, mean), dim=1)
        return plain.classifier(features)  # type: ignore[no-any-return]

    def attention_module(self, layer: int) -> nn.Module:
        """The attention of a layer."""
        return self._layers[layer].attention  # type: ignore[no-any-return]

    def attend(self, layer: int, tokens: Tensor) -> Tensor:
        """Output of a layer's attention on the tokens of all patches: (batch, n_tokens, dim)."""
        output: Tensor = self.attention_module(layer)(self._attention_input(layer, tokens))[0]
        return output

    def query_key(self, tokens: Tensor) -> tuple[Tensor, Tensor, float]:
        """Query and key of the first layer, (batch, heads, n_tokens, dim_head), and their scale."""
        attention: Any = self.attention_module(0)
        normed = self._attention_input(0, tokens)
        query, key = (
            projection(normed).unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj)
        )
        return query, key, attention.scaling

    @property
    def _base(self) -> Any:
        """The model without its head."""
        return getattr(self.plain_model, self.plain_model.base_model_prefix)

    @property
    def _layers(self) -> Any:
        base = self._base
        return base.layers if hasattr(base, "layers") else base.encoder.layer

    @property
    def _n_registers(self) -> int:
        registers = getattr(self._base.embeddings, "register_tokens", None)
        return 0 if registers is None else int(registers.shape[1])

    def _prefix(self) -> list[Tensor]:
        """Prefix tokens that have positions, each (1, dim)."""
        embeddings = self._base.embeddings
        return [getattr(embeddings, name)[0] for name in _POSITIONED if hasattr(embeddings, name)]

    def _attention_input(self, layer: int, tokens: Tensor) -> Tensor:
        block = self._layers[layer]
        norm = block.norm1 if hasattr(block, "norm1") else block.layernorm_before
        return norm(tokens)  # type: ignore[no-any-return]


def wrap(model: nn.Module) -> LibraryViT | None:
    """The adapter of a model of transformers; None for another module.

    Raises:
        ArgumentError: for a model of transformers that cannot drop patches, with the reason.
    """
    from transformers import PreTrainedModel  # an optional package

    if not isinstance(model, PreTrainedModel):
        return None
    plain: Any = model
    if "ForImageClassification" not in type(model).__name__:
        raise ArgumentError(
            "model", f"must be one for image classification, got {type(model).__name__}"
        )
    check_type(plain.config.model_type, type(model).__name__)
    height, width = getattr(plain, plain.base_model_prefix).embeddings.patch_embeddings.image_size
    if height != width and plain.config.model_type.startswith("dinov2"):
        raise ArgumentError(
            "image_size",
            f"must be square for {type(model).__name__}, which resizes its positions, "
            f"got {[height, width]}",
        )
    return HuggingFaceViT(model)


def make(
    name: str,
    *,
    n_classes: int,
    channels: int,
    image_size: tuple[int, int] | None,
    patch_size: int | None,
    **_: Any,
) -> nn.Module:
    """The model that a folder or a name of Hugging Face's hub describes, with fresh weights.

    Raises:
        ArgumentError: for a folder or a name without a configuration, or a model that cannot drop
            patches.
    """
    from transformers import AutoConfig, AutoModelForImageClassification  # an optional package

    expected = "must be a folder that save_pretrained wrote, or a name of huggingface.co"
    if name.startswith(("/", ".", "~")) and not Path(name, "config.json").is_file():
        raise ArgumentError("model", f"{expected}, got {shown(f'hf:{name}')} without config.json")
    try:
        with without_hub_warnings():  # of each try to reach the hub
            config = AutoConfig.from_pretrained(
                name, trust_remote_code=False, local_files_only=not may_download()
            )
    except Exception as error:  # of many kinds, by what is missing
        reason = " ".join(str(error).split())[:200]
        raise ArgumentError("model", f"{expected}, got {shown(f'hf:{name}')}: {reason}") from error
    check_type(config.model_type, f"hf:{name}")
    config.num_labels, config.num_channels = n_classes, channels
    if image_size is not None:
        config.image_size = image_size if image_size[0] != image_size[1] else image_size[0]
    if patch_size is not None:
        config.patch_size = patch_size
    model: nn.Module = AutoModelForImageClassification.from_config(config)
    return model


@contextmanager
def without_hub_warnings() -> Iterator[None]:
    """Within the block, the hub's client logs errors only."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
