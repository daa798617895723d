"""From the gradients of batches to a change of the weights."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from vit_patch_env.checks import InputError, shown
from vit_patch_env.training.loss_scale import LossScale


class Update:
    """Changes weights by the mean gradient of one batch, or of several.

    If a gradient is not finite, weights and optimizer are not changed.

    Args:
        optimizer: a fused one, which skips its step where `found_inf` is 1.
        device: of the weights.
        clip_grad_norm: largest norm of all gradients together; longer ones are scaled down to it.
        accumulate: batches per update.
        scale: of the loss, in float16.

    Attributes:
        parameters: the weights.
        n_added: batches whose gradients wait for the update.
        skipped: 1 if the update that the last batch completed was not made, as a gradient was not
            finite, else 0: 0-d float32, on the device.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        clip_grad_norm: float | None = None,
        accumulate: int = 1,
        scale: LossScale | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.n_added = 0
        self.parameters = [one for group in optimizer.param_groups for one in group["params"]]
        self._clip_grad_norm = clip_grad_norm
        self._accumulate = accumulate
        self._scale = scale
        self._unscaled = torch.ones((), dtype=torch.float32, device=device)
        self._none = torch.zeros((), dtype=torch.float32, device=device)
        self.skipped = self._none

    @property
    def n_scale_steps(self) -> int:
        """Consecutive updates that may be skipped until the scale of the loss is small enough."""
        return 0 if self._scale is None else self._scale.N_HALVINGS

    def begin(self) -> None:
        """Begin with a batch: without gradients, unless those of batches before it wait."""
        if not self.n_added:
            self.optimizer.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a batch's loss to those that wait: work of the device alone."""
        if self._accumulate > 1:
            loss = loss / self._accumulate
        if self._scale is not None:
            loss = self._scale.scaled(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def end(self) -> bool:
        """End a batch, whose gradients are added; whether that completed an update."""
        self.n_added += 1
        if self.n_added < self._accumulate:
            self.skipped = self._none
            return False
        self._apply()
        return True

    def finish(self) -> bool:
        """Make the update of the last batches, if they are fewer; whether there were any."""
        if not self.n_added:
            return False
        torch._foreach_mul_(self._gradients, self._accumulate / self.n_added)
        self._apply()
        return True

    def state_dict(self) -> dict[str, Any]:
        """What the next update depends on; empty for updates by single batches, without scale."""
        state: dict[str, Any] = {}
        if self.n_added:
            state |= {"n_added": self.n_added, "gradients": [one.grad for one in self.parameters]}
        return state if self._scale is None else {**state, "scale": self._scale.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another one of the same weights, whose tensors are kept.

        Raises:
            InputError: for gradients of other shapes.
        """
        n_added = state.get("n_added", 0)
        gradients = state["gradients"] if n_added else [None] * len(self.parameters)
        if n_added not in range(self._accumulate):
            raise InputError(f"{shown(n_added)} batches before an update")
        for weight, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None and gradient.shape != weight.shape:
                raise InputError(f"a gradient of shape {tuple(gradient.shape)}")
            weight.grad = None if gradient is None else gradient.to(weight)
        self.n_added = n_added
        if self._scale is not None:
            self._scale.load_state_dict(state["scale"])

    def __getstate__(self) -> dict[str, Any]:
        """The attributes, with the gradients, which copies of parameters do not have."""
        return {**vars(self), "_waiting": self.state_dict().get("gradients", [])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        waiting = state.pop("_waiting")
        vars(self).update(state)
        for weight, gradient in zip(self.parameters if waiting else (), waiting, strict=True):
            weight.grad = gradient

    def _apply(self) -> None:
        self.n_added = 0
        scale = self._scale
        bad = self._bad_gradients() if scale is None else scale.unscale(self.optimizer)
        if self._clip_grad_norm is not None:
            clip_grad_norm_(self.parameters, self._clip_grad_norm, foreach=True)
        self.skipped = bad
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]  # does nothing if 1
        self.optimizer.step()

    @property
    def _gradients(self) -> list[Tensor]:
        return [weight.grad for weight in self.parameters if weight.grad is not None]

    def _bad_gradients(self) -> Tensor:
        """1 if any gradient is not finite, else 0: 0-d float32, on the device.

        GradScaler's check, scaling by 1: one pass and no synchronisation with the host.
        """
        bad = torch.zeros_like(self._none)
        torch._amp_foreach_non_finite_check_and_unscale_(self._gradients, bad, self._unscaled)
        return bad
