"""Compiles the attention kernel for this machine's processor, once, and loads it."""

import ctypes
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch

from vit_patch_env.models.kernels.trial import answers_correctly
from vit_patch_env.reading import MEGABYTE
from vit_patch_env.system.cache import cache_dir
from vit_patch_env.system.files import replacing

_SOURCE = Path(__file__).with_name("cpu_attention.c")
_FLAGS = [
    "-O3", "-std=gnu11", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-fopenmp",
    "-Wno-psabi", "-Werror=implicit-function-declaration",
]  # fmt: skip
_DEFINITIONS = {torch.float32: [], torch.bfloat16: ["-DBF16"]}
_N_POINTERS = {"attention_forward": 3, "attention_backward": 4, "scalar_attention": 4}
_N_SIZES = {"attention_forward": 4, "attention_backward": 4, "scalar_attention": 5}
_DIGEST_SIZE = hashlib.sha256().digest_size

_LARGEST = 16 * MEGABYTE
"""Of a compiled kernel, which has less than 100 kB."""

_enabled = True


class _KernelError(Exception):
    """The kernel cannot be used: why."""


def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled kernel for numbers of that type.

    It is compiled at the first call and kept in the user's cache folder.

    Returns:
        The loaded library, or None, with a warning, if it cannot be compiled; None if not enabled.
    """
    return _built(dtype) if _enabled else None


def available(dtype: torch.dtype) -> bool:
    """Whether there is a kernel for that type of numbers; it is compiled if necessary."""
    return dtype in _DEFINITIONS and library(dtype) is not None


# What `torch.compiler.assume_constant_result` does, without importing the compiler for a second.
available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def all_available(dtype: torch.dtype) -> bool:
    """Whether there are all kernels of a model whose matrix products are of that type.

    They are compiled if necessary, so that this takes no time of a step.
    """
    return all([available(needed) for needed in {dtype, torch.float32}])  # noqa: C419  (each one)


def enable(enabled: bool) -> None:
    """Whether this process uses the kernel, or torch's operators as where it cannot be compiled."""
    global _enabled
    _enabled = enabled


def is_enabled() -> bool:
    """Whether this process may use the kernel, as `enable` sets it."""
    return _enabled


@cache
def _built(dtype: torch.dtype) -> ctypes.CDLL | None:
    try:
        command, path = _command(dtype)
        kept = _kept(path, dtype)
        return kept or _compiled(command, path, dtype)
    except _KernelError as error:
        warnings.warn(f"attention takes the slower, general path: {error}", stacklevel=3)
    return None


def _command(dtype: torch.dtype) -> tuple[list[str], Path]:
    """The command that compiles the kernel, without its files, and where it is kept."""
    command = [*_compiler(), *_FLAGS, *_DEFINITIONS[dtype]]
    return command, _private_folder() / f"cpu_attention-{_key(command)}.so"


def _compiler() -> list[str]:
    """The command of the C compiler: CC, or the first one that is installed."""
    try:
        given = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise _KernelError(f"CC must be a command, got {os.environ['CC']!r}: {error}") from error
    found = next(filter(None, map(shutil.which, ("cc", "gcc"))), None)
    if not given and found is None:
        raise _KernelError("no C compiler was found")
    return given or [str(found)]


def _key(command: list[str]) -> str:
    """What the kernel depends on: source, flags, compiler, C library, and this processor.

    Machines may share a home folder, and their compilers may be upgraded.
    """
    compiler = Path(shutil.which(command[0]) or command[0]).resolve()
    try:
        details = compiler.stat()
    except OSError as error:
        raise _KernelError(
            f"{command[0]} could not compile the kernel: {error.strerror}"
        ) from error
    depends_on = (
        command, str(compiler), details.st_size, details.st_mtime_ns,
        os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else "",
        sorted(torch.cpu.get_capabilities().items()),
    )  # fmt: skip
    return hashlib.sha256(_SOURCE.read_bytes() + repr(depends_on).encode()).hexdigest()[:16]


def _private_folder() -> Path:
    """The folder of compiled kernels, in which only this user can write.

    Whoever can write there can run code in this process.
    """
    folder = cache_dir() / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        details = folder.lstat()
    except OSError as error:
        raise _KernelError(f"the kernel could not be built in {folder}: {error}") from error
    if not stat.S_ISDIR(details.st_mode) or not _is_private(details):
        raise _KernelError(
            f"kernels must be in a folder that only this user can write to, got {folder}: "
            f"remove it, or chmod 700"
        )
    return folder


def _is_private(details: os.stat_result) -> bool:
    return details.st_uid == os.getuid() and not details.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _kept(path: Path, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernel from the cache; None if it is not there, damaged or not this user's."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        details = os.fstat(file)
        if not stat.S_ISREG(details.st_mode) or not _is_private(details):
            return None
        if details.st_size > _LARGEST:
            return None
        content = os.pread(file, details.st_size, 0)
        compiled, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
        if hashlib.sha256(compiled).digest() != digest:
            return None
        return _load(path, dtype)  # no one else can have replaced it in this folder
    except (OSError, _KernelError):
        return None
    finally:
        os.close(file)


def _compiled(command: list[str], path: Path, dtype: torch.dtype) -> ctypes.CDLL:
    """The kernel, compiled now and kept with its digest behind it."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            subprocess.run(
                [*command, "-o", str(built), str(_SOURCE), "-lm"],
                capture_output=True, text=True, errors="replace", check=True,
                start_new_session=True,  # signals to this process group would end it half-way
            )  # fmt: skip
            kernel = _load(built, dtype)  # one that does not work is not kept
            content = built.read_bytes()
            with replacing(path) as partial:
                partial.touch(mode=0o600)
                partial.write_bytes(content + hashlib.sha256(content).digest())
            return kernel
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split())[:500]
        raise _KernelError(f"{command[0]} could not compile the kernel: {reason}") from error
    except OSError as error:
        raise _KernelError(f"the kernel could not be built in {path.parent}: {error}") from error


def _load(path: Path, dtype: torch.dtype) -> ctypes.CDLL:
    """Load a library and compare its answers on a small input with what they must be."""
    kernel = ctypes.CDLL(str(path))
    for name, n_pointers in _N_POINTERS.items():
        sizes = [ctypes.c_int] * _N_SIZES[name]
        getattr(kernel, name).argtypes = [ctypes.c_void_p] * n_pointers + [*sizes, ctypes.c_float]
    if not answers_correctly(kernel, bf16=dtype == torch.bfloat16):
        raise _KernelError(f"the compiled kernel {path.name} computes wrong results")
    return kernel
