"""The scale of the loss in float16, whose small gradients would be 0."""

from typing import Any

import torch
from torch import Tensor


class LossScale:
    """torch's `GradScaler` in the steps of an optimizer that skips them itself, without waiting.

    The scale halves where a gradient overflows, and doubles after 2,000 updates without.

    Args:
        device: of the loss.
    """

    N_HALVINGS = 24
    """From the largest scale that is expected, 2**24 (torch begins with 2**16), to 1."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss whose gradients are computed."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Divide the gradients by the scale, then adjust it.

        Returns:
            1 if a gradient overflowed, else 0: 0-d float32, on the device.
        """
        self._scaler.unscale_(optimizer)
        # Not by the scaler's own step, after which this would be forgotten.
        bad: Tensor
        (bad,) = self._scaler._found_inf_per_device(optimizer).values()
        self._scaler.update()
        return bad

    def state_dict(self) -> dict[str, Any]:
        """The scale, and the updates since it was adjusted, as plain data."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another one."""
        # The scaler takes over what it has not computed yet, and keeps tensors that it has.
        self._scaler = torch.amp.GradScaler(self._device.type)
        self._scaler.load_state_dict(state)
