"""Files of weights, read with bounds: safetensors, and torch's checkpoints without their code."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from vit_patch_env.checks import InputError, shown
from vit_patch_env.reading import read_bytes
from vit_patch_env.system.files import load_tensors
from vit_patch_env.system.limits import memory_limit
from vit_patch_env.system.shown import escaped

_EXPECTED = "weights as safetensors or of torch.save"

_WITHIN = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
"""Names of the weights within a training checkpoint; an average comes first, as in timm."""

_PREFIXES = ("module.", "_orig_mod.", "plain_model.")
"""Before all names: of DistributedDataParallel, torch.compile and `select_patches`."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of weights, by their names in the model; on the CPU.

    No code in the file is executed. In a training checkpoint the weights are those named
    `state_dict` or `model`, or their average, and prefixes that wrappers add are removed.

    Args:
        path: of a safetensors file, or of one that `torch.save` wrote.

    Raises:
        InputError: for a missing or damaged file, one larger than the memory, one of anything else,
            or with a number that is not finite.
    """
    content = read_bytes(path, memory_limit(), _EXPECTED)
    try:
        weights = _without_prefixes(_tensors(content))
    except InputError as error:
        raise InputError(f"expected {_EXPECTED} in {path}, got {error}") from error
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"expected finite weights in {path}, got NaN or infinity in {name}")
    return weights


def _tensors(content: bytes) -> dict[str, Tensor]:
    """The named tensors in a file.

    Raises:
        InputError: for anything else; says what came.
    """
    if content[:4] == b"PK\x03\x04":
        return _named_tensors(load_tensors(content, also=[argparse.Namespace]))
    if content[8:9] != b"{":  # after the length of safetensors' header
        if content[:2] == b"\x80\x02":
            raise InputError("a file of torch.save before torch 1.6: save it again")
        raise InputError("another file or a damaged one")
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise InputError(f"a damaged file: {escaped(str(error))}") from error


def _named_tensors(state: Any) -> dict[str, Tensor]:
    """The weights in what `torch.save` saved."""
    for name in _WITHIN:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
            break
    if not isinstance(state, Mapping) or not state:
        raise InputError(f"no weights by name but {shown(state)}")
    for name, value in state.items():
        if not isinstance(value, Tensor) or not isinstance(name, str) or value.is_sparse:
            got = type(value).__name__
            raise InputError(f"no weights by name but {shown(name)}, which is of type {got}")
    return dict(state)


def _without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = {name: one for name, one in weights.items() if name != "n_averaged"}  # torch's
    for prefix in (*_PREFIXES, *_PREFIXES):  # there may be two, in any order
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): one for name, one in weights.items()}
    return weights
