"""Devices that a training is planned for: of a table, or of this machine."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from vit_patch_env.checks import ArgumentError, named, shown
from vit_patch_env.names import PrecisionName
from vit_patch_env.training.precision import Precision, resolve_precision

EFFICIENCY = 0.3
"""Share of the peak that training steps of a ViT reach, by default: see docs/planning.md."""


class Accelerator(NamedTuple):
    """What a vendor states of an accelerator.

    Attributes:
        title: its full name.
        memory: bytes.
        peak: FLOP/s of dense matrix products by precision. fp32 is without TF32, which neither
            torch nor this package switches on.
        link: bytes per second to other devices of the same machine, in one direction.
        source: of these numbers.
    """

    title: str
    memory: float
    peak: Mapping[PrecisionName, float]
    link: float
    source: str

    def resolved(self, precision: PrecisionName) -> PrecisionName:
        """The precision; for `auto` bf16, or fp32 where the device has no bf16.

        Raises:
            ArgumentError: for one that the device does not have.
        """
        if precision == "auto":
            return "bf16" if "bf16" in self.peak else "fp32"
        if precision not in self.peak:
            raise ArgumentError(
                "precision",
                f"must be auto, {' or '.join(self.peak)} on {self.title}, got {precision}",
            )
        return precision


def _ampere_or_newer(fp32: float, half: float) -> dict[PrecisionName, float]:
    return {"fp32": fp32, "bf16": half, "fp16": half}


ACCELERATORS: dict[str, Accelerator] = {
    "h200": Accelerator(
        "H200 SXM", 141e9, _ampere_or_newer(67e12, 989.5e12), 450e9, "NVIDIA H200 data sheet"
    ),
    "h100": Accelerator(
        "H100 SXM", 80e9, _ampere_or_newer(67e12, 989.5e12), 450e9, "NVIDIA H100 data sheet"
    ),
    "a100": Accelerator(
        "A100 80 GB SXM", 80e9, _ampere_or_newer(19.5e12, 312e12), 300e9, "NVIDIA A100 data sheet"
    ),
    "l40s": Accelerator(
        "L40S", 48e9, _ampere_or_newer(91.6e12, 362e12), 32e9, "NVIDIA L40S data sheet"
    ),
    "l4": Accelerator("L4", 24e9, _ampere_or_newer(30.3e12, 121e12), 32e9, "NVIDIA L4 data sheet"),
    "rtx4090": Accelerator(
        "GeForce RTX 4090", 24e9, _ampere_or_newer(82.6e12, 165.2e12), 32e9,
        "NVIDIA Ada GPU architecture white paper",
    ),
    "v100": Accelerator(
        "V100 32 GB SXM2", 32e9, {"fp32": 15.7e12, "fp16": 125e12}, 150e9, "NVIDIA V100 data sheet"
    ),
    "t4": Accelerator("T4", 16e9, {"fp32": 8.1e12, "fp16": 65e12}, 16e9, "NVIDIA T4 data sheet"),
}  # fmt: skip
"""Every accelerator by its name on the command line.

Data sheets state peaks with sparsity from A100 on, and links in both directions: half of either
counts here.
"""

_OF_THIS_MACHINE = ("auto", "cpu", "cuda")


def find_accelerator(device: str) -> Accelerator | None:
    """The accelerator of that name; None for a device of this machine.

    Raises:
        ArgumentError: for an unknown name.
    """
    if device in _OF_THIS_MACHINE or device.startswith("cuda:"):
        return None
    if device not in ACCELERATORS:
        raise ArgumentError(
            "device",
            f"must be one of {', '.join(ACCELERATORS)}, or one of this machine (auto, cpu, cuda or "
            f"cuda:<n>), got {shown(device)}",
        )
    return ACCELERATORS[device]


def planned_precision(
    accelerator: Accelerator | None, device: torch.device, precision: PrecisionName
) -> Precision:
    """Type and precision of the devices of a plan.

    Args:
        accelerator: of the table; None for a device of this machine.
        device: that one, or any.
        precision: as the user names it.
    """
    if accelerator is None:
        return resolve_precision(precision, device)
    return resolve_precision(accelerator.resolved(precision), torch.device("cuda"))


def check_values_used(
    accelerator: Accelerator | None, *, efficiency: float | None, interconnect: float | None
) -> None:
    """Refuse values of an accelerator that a device of this machine would ignore.

    Raises:
        ArgumentError: for such a value.
    """
    if accelerator is not None:
        return
    for name, value in {"efficiency": efficiency, "interconnect": interconnect}.items():
        if value is not None:
            raise ArgumentError(
                name,
                f"is for a {named('device')} of the table ({', '.join(ACCELERATORS)}), as steps of "
                f"this machine are measured, got {shown(value)}",
            )
