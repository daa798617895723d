"""Small ViTs of other libraries, and their own computation on a subset of the patches."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

SIZE = 32
"""Side of the images, in pixels: 16 patches of 8."""

TIMM = {
    "class-token": {},
    "average": {"global_pool": "avg"},
    "no-class-token": {"class_token": False, "global_pool": "avg"},
    "registers": {"reg_tokens": 2, "no_embed_class": True},
    "pre-norm": {"pre_norm": True, "qk_norm": True, "norm_layer": nn.LayerNorm},
    "layer-scale": {"init_values": 0.1, "drop_path_rate": 0.3},
    "dynamic": {"dynamic_img_size": True, "pos_drop_rate": 0.2},
    "attention-pool": {"class_token": False, "global_pool": "map"},
}
ROPE = {"use_rot_pos_emb": True, "global_pool": "avg", "ref_feat_shape": 4}
EVA = {
    "absolute": {},
    "rope": ROPE,
    "rope-only": {**ROPE, "use_abs_pos_emb": False, "swiglu_mlp": True},
    "rope-mixed": {**ROPE, "rope_type": "mixed", "attn_type": "rope", "num_reg_tokens": 1},
    "dinov3": {
        **ROPE, "rope_type": "dinov3", "num_reg_tokens": 4, "use_abs_pos_emb": False,
        "dynamic_img_size": True, "qkv_bias": False, "init_values": 0.1, "rope_rotate_half": True,
    },
    "post-norm": {"use_post_norm": True, "qkv_fused": False},
}  # fmt: skip
HUGGING_FACE = ("ViT", "DeiT", "DeiTTeacher", "Dinov2", "Dinov2WithRegisters")
VIT_PYTORCH = {"SimpleViT": {}, "ViT": {}, "ViT-mean": {"pool": "mean"}}

KINDS = (
    *(f"timm:{name}" for name in (*TIMM, "distilled")),
    *(f"eva:{name}" for name in EVA),
    "torchvision:plain",
    "torchvision:stem",
    *(f"hf:{name}" for name in HUGGING_FACE),
    *(f"vit_pytorch:{name}" for name in VIT_PYTORCH),
)


def make_plain(kind: str, seed: int = 0) -> Any:
    """A library's model of 5 classes, with weights that are all different from 0."""
    family, name = kind.split(":")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _MAKERS[family](name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


_HEADS = {"torchvision": "heads.head", "hf": "classifier", "vit_pytorch": "mlp_head"}


def make_classifier(kind: str, n_classes: int) -> Any:
    """`make_plain(kind)` with a head of other classes."""
    model = make_plain(kind)
    parent, _, name = _HEADS.get(kind.partition(":")[0], "head").rpartition(".")
    owner = model.get_submodule(parent)
    setattr(owner, name, nn.Linear(getattr(owner, name).in_features, n_classes))
    return model


def _timm(name: str) -> nn.Module:
    pytest.importorskip("timm")
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    kind = VisionTransformerDistilled if name == "distilled" else VisionTransformer
    return kind(
        img_size=SIZE, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5,
        **TIMM.get(name, {}),
    )  # fmt: skip


def _eva(name: str) -> nn.Module:
    pytest.importorskip("timm")
    from timm.models.eva import Eva

    return Eva(
        img_size=SIZE, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=5, **EVA[name]
    )


def _torchvision(name: str) -> nn.Module:
    from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

    stem = [ConvStemConfig(8, 3, 2), ConvStemConfig(8, 3, 2), ConvStemConfig(8, 3, 2)]
    return VisionTransformer(
        image_size=SIZE, patch_size=8, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=32,
        num_classes=5, conv_stem_configs=stem if name == "stem" else None,
    )  # fmt: skip


def _hugging_face(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    kind = name.removesuffix("Teacher")
    config = getattr(transformers, f"{kind}Config")(
        image_size=SIZE, patch_size=8, hidden_size=24, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=32, num_labels=5,
    )  # fmt: skip
    head = "ForImageClassificationWithTeacher" if "Teacher" in name else "ForImageClassification"
    model: nn.Module = getattr(transformers, kind + head)(config)
    return model


def _vit_pytorch(name: str) -> nn.Module:
    library = pytest.importorskip("vit_pytorch")
    model: nn.Module = getattr(library, name.split("-")[0])(
        image_size=SIZE, patch_size=8, num_classes=5, dim=24, depth=3, heads=2, dim_head=12,
        mlp_dim=32, **VIT_PYTORCH[name],
    )  # fmt: skip
    return model


_MAKERS = {
    "timm": _timm, "eva": _eva, "torchvision": _torchvision, "hf": _hugging_face,
    "vit_pytorch": _vit_pytorch,
}  # fmt: skip


def logits_of(plain: Any, images: Tensor) -> Tensor:
    """The library's own forward pass."""
    output = plain(images)
    return output if isinstance(output, Tensor) else output.logits


def reference(kind: str, plain: Any, images: Tensor, keep: Tensor, n_prefix: int) -> Tensor:
    """Logits on a subset: the library's embedding of all patches, selected, and its own layers."""
    family = kind.split(":")[0]
    index = torch.cat((torch.arange(n_prefix), n_prefix + keep))
    return _REFERENCES[family](plain, images, index, keep)


def _timm_reference(plain: Any, images: Tensor, index: Tensor, keep: Tensor) -> Tensor:
    tokens = plain.norm_pre(plain._pos_embed(plain.patch_embed(images))[:, index])
    return plain.forward_head(plain.norm(plain.blocks(tokens)))


def _eva_reference(plain: Any, images: Tensor, index: Tensor, keep: Tensor) -> Tensor:
    tokens, rope = plain._pos_embed(plain.patch_embed(images))
    tokens = plain.norm_pre(tokens[:, index])
    for layer, block in enumerate(plain.blocks):
        of_layer = rope[layer] if plain.rope_mixed else rope
        tokens = block(tokens, rope=None if rope is None else of_layer[..., keep, :])
    return plain.forward_head(plain.norm(tokens))


def _torchvision_reference(plain: Any, images: Tensor, index: Tensor, keep: Tensor) -> Tensor:
    tokens = plain._process_input(images)
    tokens = torch.cat((plain.class_token.expand(len(images), -1, -1), tokens), dim=1)
    tokens = (tokens + plain.encoder.pos_embedding)[:, index]
    return plain.heads(plain.encoder.ln(plain.encoder.layers(tokens))[:, 0])


def _hugging_face_reference(plain: Any, images: Tensor, index: Tensor, keep: Tensor) -> Tensor:
    embeddings = getattr(plain, plain.base_model_prefix).embeddings
    whole = type(embeddings).forward
    # The library's own forward pass, with an embedding that selects.
    embeddings.forward = partial(
        lambda module, *args, **options: whole(module, *args, **options)[:, index], embeddings
    )
    try:
        return plain(images).logits
    finally:
        del embeddings.forward


def _vit_pytorch_reference(plain: Any, images: Tensor, index: Tensor, keep: Tensor) -> Tensor:
    tokens = plain.to_patch_embedding(images)
    if getattr(plain, "cls_token", None) is not None:
        tokens = torch.cat((plain.cls_token.expand(len(images), -1, -1), tokens), dim=1)
    tokens = plain.transformer((tokens + plain.pos_embedding)[:, index])
    pooled = tokens.mean(dim=1) if plain.pool == "mean" else tokens[:, 0]
    return (plain.mlp_head if hasattr(plain, "mlp_head") else plain.linear_head)(pooled)


_REFERENCES: dict[str, Any] = {
    "timm": _timm_reference, "eva": _eva_reference, "torchvision": _torchvision_reference,
    "hf": _hugging_face_reference, "vit_pytorch": _vit_pytorch_reference,
}  # fmt: skip
