"""One optimizer step of a ViT on chosen patches."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit_patch_env.data.batches import Batch
from vit_patch_env.models.kernels.build import all_available
from vit_patch_env.names import OptimizerName
from vit_patch_env.system.memory import keep_freed_memory
from vit_patch_env.system.tensors import check_optimizer_state
from vit_patch_env.system.torch_state import copied_for_training, own_torch_state
from vit_patch_env.training.precision import Precision


class Trainer:
    """A model and its optimizer, advanced step by step.

    The model must have `n_patches`; `model(images, keep=None)` -> logits; and
    `model.first_attention(images)` -> (batch, n_patches, dim). A model whose share of tokens
    changes over the run has `model.train_rate(progress)`, progress in [0, 1), and takes this rate
    in training: `model(images, keep, rate=...)`.

    Args:
        model: trained in place, moved to the device.
        precision: device, and type of the matrix products; weights and optimizer stay in float32.
        learning_rate: peak learning rate.
        schedule: maps the progress of a run, in [0, 1], to the share of the peak learning rate.
        optimizer: `adam` (the paper's) or `adamw`.
        weight_decay: of the optimizer.
        label_smoothing: of the training loss, in [0, 1).

    Attributes:
        skipped: 1 if a gradient of the last step was not finite, so that it changed no weights,
            else 0: 0-d float32, on the device.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: Precision,
        *,
        learning_rate: float = 1e-3,
        schedule: Callable[[float], float] | None = None,
        optimizer: OptimizerName = "adam",
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        device = precision.device
        if device.type == "cpu":
            keep_freed_memory()
            all_available(precision.dtype)  # compiled here rather than in a timed step
        self.model = model.to(device)
        self.precision = precision
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.label_smoothing = label_smoothing
        optimizer_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
        self.optimizer = optimizer_class(
            model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True
        )
        self._parameters = list(model.parameters())
        self._unscaled = torch.ones((), dtype=torch.float32, device=device)
        self.skipped = torch.zeros((), dtype=torch.float32, device=device)

    def step(self, batch: Batch, keep: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Loss of one optimizer step on the kept patches: 0-d float32, still on the device.

        If a gradient is not finite, weights and optimizer are not changed.

        Args:
            batch: normalised images, and their labels as classes or probabilities, on the device.
            keep: indices (n_keep,) int64 of the patches to train on; None for all.
            progress: share of the run's budget used before this step, in [0, 1].
        """
        self.model.train()
        with self.precision.autocast():
            logits = self.model(batch.images, keep, **rate_option(self.rate(progress)))
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.schedule is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * self.schedule(progress)
        self.skipped = self._has_bad_gradients()
        self.optimizer.found_inf = self.skipped  # the fused step does nothing if 1
        self.optimizer.step()
        return loss.detach()

    def rate(self, progress: float) -> float | None:
        """The model's share of tokens at this progress; None for a model without `train_rate`."""
        train_rate = getattr(self.model, "train_rate", None)
        return None if train_rate is None else float(train_rate(progress))

    def state_dict(self) -> dict[str, Any]:
        """Weights and state of the optimizer now, copied: on the CPU, where there is room."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        moments = [
            value for of_one in state["optimizer"]["state"].values() for value in of_one.values()
        ]
        with own_torch_state(gradients=False):
            on_cpu = {
                id(value): value.to("cpu", copy=True)
                for value in (*state["model"].values(), *moments)
                if isinstance(value, Tensor)
            }
            return copy.deepcopy(state, on_cpu)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another trainer of the same model, which may go on training."""
        # Copied, as torch's optimizers take over the tensors of a state, and models may as well.
        check_optimizer_state(self.optimizer, state["optimizer"])
        self.model.load_state_dict(copied_for_training(state["model"]))
        self.optimizer.load_state_dict(copied_for_training(state["optimizer"]))

    def _has_bad_gradients(self) -> Tensor:
        """1 if any gradient is not finite, else 0: 0-d float32, on the device.

        GradScaler's check, scaling by 1: one pass and no synchronisation with the host.
        """
        bad = torch.zeros((), dtype=torch.float32, device=self.precision.device)
        gradients = [weight.grad for weight in self._parameters if weight.grad is not None]
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, bad, self._unscaled)
        return bad


def rate_option(rate: float | None) -> dict[str, float]:
    """The keyword arguments of a forward pass at this rate; empty for None."""
    return {} if rate is None else {"rate": rate}
