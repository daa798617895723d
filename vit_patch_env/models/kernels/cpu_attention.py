"""Fused attention for short sequences on CPUs, in fp32 and bf16.

`cpu_attention.c` is compiled once for the processor at hand, with the C compiler that is there, and
kept in the user's cache.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vit_patch_env.system.cache import cache_dir

MAX_TOKENS = 256
MAX_DIM_HEAD = 128

_SOURCE = Path(__file__).with_name("cpu_attention.c")
_FLAGS = [
    "-O3", "-std=gnu11", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-fopenmp",
    "-Wno-psabi", "-Werror=implicit-function-declaration",
]  # fmt: skip
_DEFINITIONS = {torch.float32: [], torch.bfloat16: ["-DBF16"]}


def fits(tokens: Tensor, dtype: torch.dtype, *sizes: int) -> bool:
    """Whether the kernel can attend over those tokens.

    Args:
        tokens: (batch, n_tokens, any size).
        dtype: of matrix products.
        sizes: of a head and of whatever else is multiplied.
    """
    return (
        tokens.device.type == "cpu"
        and dtype in _DEFINITIONS
        and tokens.shape[1] <= MAX_TOKENS
        and all(size * dtype.itemsize % 64 == 0 for size in sizes)
        and sizes[0] <= MAX_DIM_HEAD
        and library(dtype) is not None
    )


def fused_attention(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(scale * query key^T) value: (batch, n_tokens, heads * dim_head), of qkv's type.

    Args:
        qkv: (batch, n_tokens, 3 * heads * dim_head), query, key and value after each other, each by
            heads; what `fits` accepts.
        heads: attention heads.
        scale: of the scores, above 0.
    """
    return _FusedAttention.apply(qkv, heads, scale)  # type: ignore[no-any-return]


def fused_scalar_attention(tokens: Tensor, weight: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attention where a token's value is one number per head: (batch, n_tokens), no gradient.

    Args:
        tokens: (batch, n_tokens, dim), of which query and key are projected.
        weight: (2 * heads * dim_head, dim) of that projection, of the tokens' type.
        values: (batch, n_tokens, heads) float32; the attended ones are summed over heads.
        scale: of the scores, above 0.
    """
    batch, n_tokens, heads = values.shape
    out = values.new_empty(batch, n_tokens)
    dim, dim_head = tokens.shape[2], len(weight) // (2 * heads)
    sizes = batch, n_tokens, heads, dim_head, dim, ctypes.c_float(scale)
    inputs = tokens.contiguous(), weight.contiguous(), values.contiguous()
    _call("scalar_attention", *inputs, out, sizes)
    return out


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, scale: float) -> Tensor:
        qkv = qkv.contiguous()
        batch, n_tokens, width = qkv.shape
        padded = -(-n_tokens // 16) * 16
        out = qkv.new_empty(batch, n_tokens, width // 3)
        weights = qkv.new_empty(batch, heads, n_tokens, padded)
        sizes = batch, n_tokens, heads, width // (3 * heads), ctypes.c_float(scale)
        _call("attention_forward", qkv, out, weights, sizes)
        ctx.save_for_backward(qkv, weights)
        ctx.sizes = sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        qkv, weights = ctx.saved_tensors
        qkv_gradient = torch.empty_like(qkv)
        _call("attention_backward", qkv, weights, gradient.contiguous(), qkv_gradient, ctx.sizes)
        return qkv_gradient, None, None


def _call(name: str, *arguments: Any) -> None:
    *tensors, sizes = arguments
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    if getattr(library(tensors[0].dtype), name)(*pointers, *sizes):
        raise MemoryError(f"no memory for {name}")


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernel compiled for a type of numbers, or None with a warning where that fails."""
    found = (path for path in map(shutil.which, ("cc", "gcc")) if path)
    compiler = shlex.split(os.environ.get("CC", "")) or list(found)[:1]
    if not compiler:
        _warn("no C compiler was found")
        return None
    command = [*compiler, *_FLAGS, *_DEFINITIONS[dtype]]
    # Machines may share a home, so the processor is part of the name.
    machine = sorted(torch.cpu.get_capabilities().items())
    key = hashlib.sha256(_SOURCE.read_bytes() + repr([command, machine]).encode())
    path = cache_dir() / f"cpu_attention-{key.hexdigest()[:16]}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                built = Path(folder) / path.name
                subprocess.run(
                    [*command, "-o", str(built), str(_SOURCE), "-lm"],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                ctypes.CDLL(str(built))  # what does not load is not kept
                built.replace(path)  # in one move, so that no other process loads half of it
        return ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        _warn(f"{compiler[0]} could not compile the kernel: {error.stderr.strip()[:500]}")
    except OSError as error:
        _warn(f"the kernel could not be built in {path.parent}: {error}")
    return None


def _warn(reason: str) -> None:
    warnings.warn(f"attention takes the slower, general path: {reason}", stacklevel=4)
