"""One training step of a ViT on chosen patches."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from vit_patch_env.data.batches import Batch
from vit_patch_env.models.kernels.build import all_available
from vit_patch_env.names import OptimizerName
from vit_patch_env.system.memory import keep_freed_memory
from vit_patch_env.system.tensors import check_optimizer_state
from vit_patch_env.system.torch_state import copied_for_training, own_torch_state
from vit_patch_env.training.compiled import compiled_forward, forward
from vit_patch_env.training.graphed import Inputs, Outputs, StepGraphs
from vit_patch_env.training.loss import CrossEntropy, Loss
from vit_patch_env.training.loss_scale import LossScale
from vit_patch_env.training.optimizers import make_optimizer
from vit_patch_env.training.parameter_groups import parameter_groups
from vit_patch_env.training.precision import Precision
from vit_patch_env.training.ranks import Ranks
from vit_patch_env.training.update import Update
from vit_patch_env.training.weight_average import WeightAverage


class Trainer:
    """A model and its optimizer, advanced step by step.

    The model must have `n_patches`; `model(images, keep=None)` -> logits; and
    `model.first_attention(images)` -> (batch, n_patches, dim). A model whose share of tokens
    changes over the run has `model.train_rate(progress)`, progress in [0, 1), and takes this rate
    in training: `model(images, keep, rate=...)`. Parameters that require no gradient are frozen.

    Args:
        model: trained in place, moved to the device.
        precision: device, and type of the matrix products; weights and optimizer stay in float32.
        learning_rate: peak learning rate.
        schedule: maps the progress of a run, in [0, 1], to the share of the peak learning rate.
        optimizer: `adam` (the paper's), `adamw`, `sgd` or `sgd_nesterov`.
        momentum: of SGD; None for its default.
        weight_decay: of the optimizer.
        decay_norms: as `parameter_groups`.
        layer_decay: as `parameter_groups`.
        loss: of logits and labels; by default the cross-entropy.
        clip_grad_norm: as `Update`.
        accumulate: batches per optimizer step; a step of the trainer is one of them.
        ema: decay of an exponential moving average of the weights; None for none.
        compiled: whether the forward pass is compiled by `torch.compile`.
        graphs: captures and replays the forward and backward pass as CUDA graphs; None to compute
            it as usual.
        ranks: the processes that have a part of each batch, whose gradients are averaged; None for
            a single one.
        unused: whether, with `ranks`, some parameters may get no gradient in a step.

    Attributes:
        update: of the weights.
        average: of the weights; None without `ema`.
        logits: of the last step's batch, (batch, n_classes), without gradients; None before it.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: Precision,
        *,
        learning_rate: float = 1e-3,
        schedule: Callable[[float], float] | None = None,
        optimizer: OptimizerName = "adam",
        momentum: float | None = None,
        weight_decay: float = 0.0,
        decay_norms: bool = True,
        layer_decay: float = 1.0,
        loss: Loss | None = None,
        clip_grad_norm: float | None = None,
        accumulate: int = 1,
        ema: float | None = None,
        compiled: bool = False,
        graphs: StepGraphs | None = None,
        ranks: Ranks | None = None,
        unused: bool = False,
    ) -> None:
        device = precision.device
        if device.type == "cpu":
            keep_freed_memory()
            all_available(precision.dtype)  # compiled here rather than in a timed step
        self.model = model.to(device)
        self.precision = precision
        self.schedule = schedule
        self.loss = CrossEntropy() if loss is None else loss
        groups = parameter_groups(
            self.model,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            decay_norms=decay_norms,
            layer_decay=layer_decay,
        )
        self._peaks = [group["lr"] for group in groups]
        self.optimizer = make_optimizer(optimizer, groups, momentum)
        self.update = Update(
            self.optimizer,
            device,
            clip_grad_norm=clip_grad_norm,
            accumulate=accumulate,
            scale=LossScale(device) if precision.scales_loss else None,
        )
        self.average = None if ema is None else WeightAverage(self.model, ema)
        self.logits: Tensor | None = None
        self._forward = compiled_forward if compiled else forward
        self._graphs = graphs
        self._trained = self.model if ranks is None else ranks.averaging(self.model, unused=unused)

    @property
    def evaluated(self) -> nn.Module:
        """The model to evaluate and to save: with the average of the weights, if there is one."""
        return self.model if self.average is None else self.average.model

    @property
    def learning_rate(self) -> float:
        """That of the last step, or the peak one; with `layer_decay`, of the last layers."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    @property
    def skipped(self) -> Tensor:
        """1 if the update due in the last step was not made, as `Update.skipped`: 0-d float32."""
        return self.update.skipped

    def step(self, batch: Batch, keep: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """Loss of one training step on the kept patches: 0-d float32, still on the device.

        If a gradient is not finite, weights and optimizer are not changed.

        Args:
            batch: normalised images, and their labels as classes or probabilities, on the device.
            keep: indices int64 of the patches to train on, (n_keep,), or (batch, n_keep) for
                others in each image; None for all.
            progress: share of the run's budget used before this step, in [0, 1].
        """
        self.model.train()
        self.update.begin()
        loss, self.logits = self._forward_backward(Inputs(*batch, keep), self.rate(progress))
        if self.schedule is not None:
            share = self.schedule(progress)
            for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * share
        self._updated(self.update.end())
        return loss

    def _forward_backward(self, inputs: Inputs, rate: float | None) -> Outputs:
        """Loss and logits of a batch, whose gradients are added to those of the weights."""
        if self._graphs is None:
            return self._pass(rate, inputs)
        # Without autocast's cache: a graph must cast the weights in each step.
        compute = partial(self._pass, rate, cached=False)
        generators = getattr(self.model, "random_generators", ())
        return self._graphs.run(compute, inputs, rate, self.update.parameters, generators)

    def _pass(self, rate: float | None, inputs: Inputs, *, cached: bool = True) -> Outputs:
        """`_forward_backward` as usual: operations of the device alone, which can be captured."""
        with self.precision.autocast(cached=cached):
            logits = self._forward(self._trained, inputs.images, inputs.keep, **rate_option(rate))
        loss = self.loss(logits.float(), inputs.labels)
        self.update.backward(loss)
        return Outputs(loss.detach().float(), logits.detach())  # a user's may be of another type

    def finish(self) -> None:
        """Make the update of the run's last batches, if they are fewer than `accumulate`."""
        self._updated(self.update.finish())

    def _updated(self, is_updated: bool) -> None:
        if is_updated and self.average is not None:
            self.average.update(self.model)

    def rate(self, progress: float) -> float | None:
        """The model's share of tokens at this progress; None for a model without `train_rate`."""
        train_rate = getattr(self.model, "train_rate", None)
        return None if train_rate is None else float(train_rate(progress))

    def state_dict(self) -> dict[str, Any]:
        """Weights, their average and what updates them now, copied: on the CPU."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if update := self.update.state_dict():
            state["update"] = update
        if self.average is not None:
            state["average"] = self.average.state_dict()
        with own_torch_state(gradients=False):
            on_cpu = {id(value): value.to("cpu", copy=True) for value in _tensors(state)}
            return copy.deepcopy(state, on_cpu)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another trainer of the same model, which may go on training."""
        # Copied, as torch's optimizers take over the tensors of a state, and models may as well.
        check_optimizer_state(self.optimizer, state["optimizer"])
        if self._graphs is not None:
            self._graphs.clear()  # they read and write tensors that may be replaced
        self.model.load_state_dict(copied_for_training(state["model"]))
        self.optimizer.load_state_dict(copied_for_training(state["optimizer"]))
        self.update.load_state_dict(copied_for_training(state.get("update", {})))
        if self.average is not None:
            self.average.load_state_dict(copied_for_training(state["average"]))


def _tensors(state: Any) -> Iterator[Tensor]:
    """The tensors in plain data."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for one in state.values() if isinstance(state, dict) else state:
            yield from _tensors(one)


def rate_option(rate: float | None) -> dict[str, float]:
    """The keyword arguments of a forward pass at this rate; empty for None."""
    return {} if rate is None else {"rate": rate}
