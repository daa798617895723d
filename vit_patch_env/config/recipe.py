"""Arguments of the environment: how the ViT is trained, how long, and on what device."""

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval
from typing_extensions import Doc

from vit_patch_env.arguments import PYTHON_ONLY, SAME_RUN, Alias, OrObject, arguments
from vit_patch_env.checks import ArgumentError, Count, Share, named, shown
from vit_patch_env.names import (
    BudgetEndName,
    BudgetName,
    OptimizerName,
    PrecisionName,
    ScheduleName,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, device

    Device = str | device
    Loss = str | Callable[[Tensor, Tensor], Tensor] | None
else:  # values that can be saved and given on the command line
    Device, Loss = str, str | None

Weight = Annotated[float, Interval(gt=0)]


@arguments
class RecipeConfig:
    """How the ViT is trained."""

    batch_size: Annotated[Count, Alias("train_batch_size"), Doc("images per training step")] = 64
    epochs: Annotated[
        int | float,
        Interval(gt=0, le=10**9),
        Doc(
            "passes over the training images; for a budget of FLOPs, passes on all patches, also "
            "a fraction such as 0.5"
        ),
    ] = 20
    budget: Annotated[
        BudgetName,
        Doc(
            "unit of an episode's length: epochs, the FLOPs of `epochs` on all patches, or seconds"
        ),
    ] = "epochs"
    seconds: Annotated[
        float | None,
        Interval(gt=0),
        Doc("budget of seconds: wall-clock time excluding evaluation"),
    ] = None
    step_overhead: Annotated[
        float,
        Interval(ge=0, le=100),
        Doc(
            "for a budget of FLOPs: what each step is charged besides its own, as a multiple of a "
            "step's on all patches; models a machine whose steps have a fixed cost"
        ),
    ] = 0.0
    budget_end: Annotated[
        BudgetEndName,
        Doc(
            "whether using up the budget truncates an episode, or terminates it: then nothing is "
            "earned after it"
        ),
    ] = "truncated"
    learning_rate: Annotated[float, Interval(gt=0), Doc("peak learning rate of the ViT")] = 1e-3
    optimizer: Annotated[
        OptimizerName,
        Doc("optimizer of the ViT: adam (the paper's), adamw, sgd, or sgd_nesterov"),
    ] = "adam"
    momentum: Annotated[
        float | None, Interval(ge=0, lt=1), Doc("momentum of sgd and sgd_nesterov; by default 0.9")
    ] = None
    weight_decay: Annotated[float, Interval(ge=0), Doc("weight decay of the ViT's optimizer")] = 0.0
    decay_norms: Annotated[
        bool,
        Doc("apply weight decay to biases, norms, positions and the class token too"),
    ] = True
    layer_decay: Annotated[
        Share, Doc("factor of the learning rate from each layer to the one before it")
    ] = 1.0
    freeze: Annotated[
        tuple[str, ...],
        Doc(
            "parts that are not trained: embedding, blocks:0-5, all-but-head, or names of "
            "parameters such as blocks.*.mlp.*"
        ),
    ] = ()
    schedule: Annotated[
        ScheduleName, Doc("learning rate after the warm-up: constant (the paper's) or cosine")
    ] = "constant"
    warmup_epochs: Annotated[
        int | float,
        Interval(ge=0),
        Doc("epochs of linear warm-up, also a fraction; the same share of other budgets"),
    ] = 0
    label_smoothing: Annotated[
        float, Interval(ge=0, lt=1), Doc("label smoothing of the training loss")
    ] = 0.0
    class_weights: Annotated[
        tuple[Weight, ...] | Literal["balanced"] | None,
        Doc(
            "weight of each class in the training loss, or balanced: all classes have the same "
            "share of it; by default all images have"
        ),
    ] = None
    loss: Annotated[
        Loss,
        OrObject("a function of logits and labels"),
        Doc(
            "training loss instead of the cross-entropy: module:function, which maps logits and "
            "labels (with mixup and CutMix probabilities) to a tensor of shape ()"
        ),
    ] = None
    clip_grad_norm: Annotated[
        float | None,
        Interval(gt=0),
        Doc("largest norm of the gradient, which is scaled down to it; by default any"),
    ] = None
    accumulate: Annotated[
        Count, Doc("batches whose mean gradient is one optimizer step; a step stays one batch")
    ] = 1
    ema: Annotated[
        float | None,
        Interval(gt=0, lt=1),
        Doc(
            "decay of a moving average of the weights, such as 0.999, which is evaluated and "
            "saved in their place; by default none"
        ),
    ] = None
    compile: Annotated[
        bool, Doc("compile the training step's forward pass with torch.compile at the first one")
    ] = False
    cuda_graphs: Annotated[
        bool,
        SAME_RUN,
        Doc(
            "replay the training step's forward and backward pass as CUDA graphs, one for each "
            "number of patches; what Python code of the model or the loss decides in a step stays "
            "as captured (docs/gpu.md); not measured yet"
        ),
    ] = False
    device: Annotated[
        Device,
        SAME_RUN,
        Alias("train_device"),
        Doc("auto (CUDA where available), cpu, cuda or cuda:<n>; agents run on the CPU"),
    ] = "auto"
    distributed: Annotated[
        bool,
        SAME_RUN,
        PYTHON_ONLY,
        Doc(
            "train with all processes that torchrun has started, each on a part of every batch: "
            "see docs/distributed.md"
        ),
    ] = False
    precision: Annotated[
        PrecisionName,
        Doc(
            "of matrix products: auto (bf16 where the hardware has it), fp32, bf16, or fp16 with a "
            "scaled loss (CUDA only)"
        ),
    ] = "auto"

    def _check_optimizer(self) -> None:
        """Refuse a momentum that the optimizer would ignore, or needs."""
        if self.momentum is not None and not self.optimizer.startswith("sgd"):
            raise ArgumentError(
                "momentum", f"is of sgd and sgd_nesterov, got {named('optimizer')} {self.optimizer}"
            )
        if self.momentum == 0 and self.optimizer == "sgd_nesterov":
            raise ArgumentError("momentum", "must be above 0 for sgd_nesterov, got 0.0")

    def _check_step(self) -> None:
        """Refuse CUDA graphs beside what they have not been tried with."""
        if not self.cuda_graphs:
            return
        for name in ("compile", "distributed"):
            if getattr(self, name):
                raise ArgumentError(
                    "cuda_graphs", f"must not be given with {named(name)}, got both"
                )

    def _check_loss(self) -> None:
        """Refuse what a loss of the user's would ignore."""
        if self.loss is None:
            return
        if not (isinstance(self.loss, str) or callable(self.loss)):
            raise ArgumentError("loss", f"must be a function or its name, got {shown(self.loss)}")
        for name in ("label_smoothing", "class_weights"):
            if getattr(self, name):
                raise ArgumentError(
                    name,
                    f"is of the cross-entropy, which {named('loss')} replaces, got "
                    f"{shown(getattr(self, name))}",
                )
