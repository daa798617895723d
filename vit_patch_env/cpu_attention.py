"""Fused bf16 attention for short sequences on CPUs with AVX-512 bf16 instructions.

`cpu_attention.c` is compiled once, with the C compiler that is there, and kept in the user's cache.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vit_patch_env.cache import cache_dir

MAX_TOKENS = 256

_SOURCE = Path(__file__).with_name("cpu_attention.c")
_FLAGS = [
    "-O3", "-std=c11", "-fPIC", "-shared", "-fopenmp",
    "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma",
]  # fmt: skip


def fits(qkv: Tensor, heads: int) -> bool:
    """Whether the kernel can take query, key and value (batch, n_tokens, 3 * heads * dim_head)."""
    dim_head = qkv.shape[2] // (3 * heads)
    return (
        qkv.device.type == "cpu"
        and qkv.dtype == torch.bfloat16
        and qkv.shape[1] <= MAX_TOKENS
        and dim_head % 32 == 0
        and dim_head <= 128
        and library() is not None
    )


def fused_attention(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(scale * query key^T) value: (batch, n_tokens, heads * dim_head), bf16.

    Args:
        qkv: (batch, n_tokens, 3 * heads * dim_head) bf16, query, key and value after each other,
            each by heads.
        heads: attention heads.
        scale: of the scores.
    """
    return _FusedAttention.apply(qkv, heads, scale)  # type: ignore[no-any-return]


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
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        qkv, weights = ctx.saved_tensors
        qkv_gradient = torch.empty_like(qkv)
        _call("attention_backward", qkv, weights, gradient.contiguous(), qkv_gradient, ctx.sizes)
        return qkv_gradient, None, None


def _call(name: str, *arguments: Any) -> None:
    *tensors, sizes = arguments
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    if getattr(library(), name)(*pointers, *sizes):
        raise MemoryError(f"no memory for {name}")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, or None where the processor or a compiler is missing."""
    if not torch.cpu.get_capabilities().get("avx512_bf16"):
        return None
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        warnings.warn("no C compiler found: attention takes the slower, general path", stacklevel=2)
        return None
    key = hashlib.sha256(_SOURCE.read_bytes() + " ".join([compiler, *_FLAGS]).encode())
    path = cache_dir() / f"cpu_attention-{key.hexdigest()[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            command = [compiler, *_FLAGS, "-o", str(built), str(_SOURCE), "-lm"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                warnings.warn(
                    f"{compiler} could not compile the attention kernel, which takes the slower, "
                    f"general path: {result.stderr.strip()[:500]}",
                    stacklevel=2,
                )
                return None
            built.replace(path)  # in one move, so that no other process loads half of it
    return ctypes.CDLL(str(path))
