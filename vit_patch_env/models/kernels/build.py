"""Compiles the attention kernel for this machine's processor, once, and loads it."""

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

import torch

from vit_patch_env.system.cache import cache_dir

_SOURCE = Path(__file__).with_name("cpu_attention.c")
_FLAGS = [
    "-O3", "-std=gnu11", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-fopenmp",
    "-Wno-psabi", "-Werror=implicit-function-declaration",
]  # fmt: skip
_DEFINITIONS = {torch.float32: [], torch.bfloat16: ["-DBF16"]}
_N_POINTERS = {"attention_forward": 3, "attention_backward": 4, "scalar_attention": 4}
_N_SIZES = {"attention_forward": 4, "attention_backward": 4, "scalar_attention": 5}


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled kernel for numbers of that type.

    It is compiled at the first call and kept in the user's cache folder.

    Returns:
        The loaded library, or None, with a warning, if it cannot be compiled.
    """
    found = (path for path in map(shutil.which, ("cc", "gcc")) if path)
    compiler = shlex.split(os.environ.get("CC", "")) or list(found)[:1]
    if not compiler:
        _warn("no C compiler was found")
        return None
    command = [*compiler, *_FLAGS, *_DEFINITIONS[dtype]]
    # Machines may share a home folder, so the processor is part of the name.
    machine = sorted(torch.cpu.get_capabilities().items())
    key = hashlib.sha256(_SOURCE.read_bytes() + repr([command, machine]).encode())
    path = cache_dir() / f"cpu_attention-{key.hexdigest()[:16]}.so"
    try:
        if not path.exists():
            _compile(command, path)
        return _load(path)
    except subprocess.CalledProcessError as error:
        _warn(f"{compiler[0]} could not compile the kernel: {error.stderr.strip()[:500]}")
    except OSError as error:
        _warn(f"the kernel could not be built in {path.parent}: {error}")
    return None


def available(dtype: torch.dtype) -> bool:
    """Whether there is a kernel for that type of numbers; it is compiled if necessary."""
    return dtype in _DEFINITIONS and library(dtype) is not None


# What `torch.compiler.assume_constant_result` does, without importing the compiler for a second.
available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _compile(command: list[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        subprocess.run(
            [*command, "-o", str(built), str(_SOURCE), "-lm"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        _load(built)  # a library that does not load is not kept
        built.replace(path)  # atomic, so that no other process loads half of it


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    for name, n_pointers in _N_POINTERS.items():
        sizes = [ctypes.c_int] * _N_SIZES[name]
        getattr(loaded, name).argtypes = [ctypes.c_void_p] * n_pointers + [*sizes, ctypes.c_float]
    return loaded


def _warn(reason: str) -> None:
    warnings.warn(f"attention takes the slower, general path: {reason}", stacklevel=4)
