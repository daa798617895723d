"""The device of a ViT and the precision of its matrix products."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast, get_args

import torch

from vit_patch_env.checks import ArgumentError, check_choice, shown
from vit_patch_env.names import PrecisionName
from vit_patch_env.system.launch import launch

_DTYPES: dict[PrecisionName, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class Precision(NamedTuple):
    """A device, and the type of the matrix products on it."""

    device: torch.device
    dtype: torch.dtype = torch.float32

    @contextmanager
    def autocast(self, *, cached: bool = True) -> Iterator[None]:
        """A context in which matrix products are computed in `dtype`.

        Args:
            cached: whether a weight that is used several times is cast once.
        """
        enabled = self.dtype != torch.float32
        dtype = self.dtype if enabled else torch.bfloat16  # without effect, but one of autocast's
        try:
            with torch.autocast(
                self.device.type, dtype=dtype, enabled=enabled, cache_enabled=cached
            ):
                yield
        finally:
            # In a caller's autocast torch would keep the weights that it has cast, whose values
            # change, and those cast without gradients.
            torch.clear_autocast_cache()

    @property
    def name(self) -> PrecisionName:
        """`bf16`, `fp16` or `fp32`."""
        return next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)

    @property
    def scales_loss(self) -> bool:
        """Whether gradients are so small for `dtype` that the loss must be scaled."""
        return self.dtype == torch.float16


def resolve_device(device: str | torch.device) -> torch.device:
    """The device, or that of the name; `auto` is CUDA where available, else the CPU.

    Raises:
        ArgumentError: for an unknown device, or a CUDA device that does not exist.
    """
    expected = f"must be auto, cpu, cuda or cuda:<n>, got {shown(device)}"
    if isinstance(device, torch.device):
        device = str(device)
    if not isinstance(device, str):
        raise ArgumentError("device", expected)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ArgumentError("device", expected) from error
    if resolved.type not in ("cpu", "cuda"):
        raise ArgumentError("device", expected)
    n_devices = torch.cuda.device_count()
    if resolved.type == "cuda" and (resolved.index or 0) >= n_devices:
        raise ArgumentError("device", f"{device!r} needs a CUDA device, got {n_devices} of them")
    return resolved


def own_device(device: torch.device) -> torch.device:
    """That of this process, of the same kind: on CUDA, each process of a machine has its own."""
    launched = launch()
    if launched is None or device.type != "cuda":
        return device
    return resolve_device(f"cuda:{launched.local_rank}")


def resolve_precision(precision: str, device: torch.device) -> Precision:
    """The precision of that name; `auto` is bfloat16 if the hardware supports it.

    Raises:
        ArgumentError: for an unknown precision, or fp16 on a CPU.
    """
    check_choice(get_args(PrecisionName), precision=precision)
    if precision == "fp16" and device.type == "cpu":
        raise ArgumentError("precision", "must be auto, fp32 or bf16 on a CPU, got fp16")
    name = cast("PrecisionName", precision)
    if name == "auto":
        name = "bf16" if has_bf16(device) else "fp32"
    return Precision(device, _DTYPES[name])


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))
