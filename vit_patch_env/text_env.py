"""TextPatchSelect-v0: the same environment over the tokens of a text classifier."""

from functools import partial
from typing import Any

from vit_patch_env.data.docstrings import load_docstrings
from vit_patch_env.env import ViTPatchSelectEnv
from vit_patch_env.models.text_encoder import bert_encoder, check_transformers


def make_text_env(
    *,
    n_tokens: int = 32,
    n_words: int = 2000,
    train_fraction: float = 1.0,
    val_fraction: float = 0.1,
    dim: int = 128,
    depth: int = 4,
    heads: int = 4,
    mlp_dim: int = 512,
    **arguments: Any,
) -> ViTPatchSelectEnv:
    """`ViTPatchSelectEnv` with a BERT on docstrings of Python's standard library.

    Args:
        n_tokens: as of `load_docstrings`.
        n_words: as of `load_docstrings`.
        train_fraction: as of `load_docstrings`.
        val_fraction: as of `load_docstrings`.
        dim: as of `bert_encoder`.
        depth: as of `bert_encoder`.
        heads: as of `bert_encoder`.
        mlp_dim: as of `bert_encoder`.
        arguments: others of `ViTPatchSelectEnv`, but `dataset` and `model`.

    Raises:
        ValueError: as these do.
    """
    check_transformers()
    data = load_docstrings(
        n_tokens=n_tokens, n_words=n_words, train_fraction=train_fraction, val_fraction=val_fraction
    )
    model = partial(
        bert_encoder, n_tokens=n_tokens, dim=dim, depth=depth, heads=heads, mlp_dim=mlp_dim
    )
    return ViTPatchSelectEnv(dataset=data, model=model, **arguments)
