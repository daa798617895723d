"""The arguments of `ViTPatchSelect-v0`, each declared once. Importing them does not need torch."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval, MultipleOf
from typing_extensions import Doc

from vit_patch_env.arguments import PYTHON_ONLY, SAME_RUN, Alias, OrObject, Search, arguments
from vit_patch_env.checks import PATH, ArgumentError, InnerShare, Share, check_integer, named
from vit_patch_env.data.dataset_names import check_dataset_name
from vit_patch_env.models.model_names import check_model_name, has_own_sizes, is_own
from vit_patch_env.names import (
    AugmentName,
    BudgetEndName,
    BudgetName,
    ImagesName,
    OptimizerName,
    PrecisionName,
    ResizeName,
    RewardName,
    ScheduleName,
)
from vit_patch_env.observation_text import check_layers, parse_observation
from vit_patch_env.patches.grid import patches_per_side

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, device, nn

    from vit_patch_env.data.splits import ImageData

    MakeModel = Callable[[int, int], nn.Module]
    Dataset = str | ImageData
    Model = str | nn.Module | MakeModel
    Augment = AugmentName | Callable[[Tensor], Tensor]
    Folder = str | Path
    Device = str | device
    Desired = int | None
    Size = int
else:  # values that can be saved and given on the command line
    Dataset, Model, Augment, Folder, Device = str, str, AugmentName, str, str
    Size = int | None
    Desired = int | Literal["auto"] | None

Count = Annotated[int, Interval(ge=1)]
FromZero = Annotated[int, Interval(ge=0)]
Alpha = Annotated[float, Interval(ge=0)]

_MIN_ALPHA = 0.01
"""Below, samples of the Beta distribution underflow to equal shares in float32."""

_AUTO: Any = "auto"

_BY_MODEL: Any = None
"""The default of sizes that a library's model has by itself."""

_SIZES = {
    "image_size": 32, "patch_size": 4, "dim": 128, "depth": 6, "heads": 16, "dim_head": 64,
    "mlp_dim": 512,
}  # fmt: skip
"""Of a ViT without sizes of its own: the paper's."""

_DESIRED_SHARE = 40 / 64
"""Of the patches, by default: 40 of the paper's 64."""


@arguments
class EnvConfig:
    """The keyword arguments of `ViTPatchSelectEnv` and `gym.make("ViTPatchSelect-v0", ...)`."""

    dataset: Annotated[
        Dataset,
        OrObject("an ImageData"),
        Doc(
            "images to train on: digits, cifar10, cifar100, fashion_mnist, folder, synthetic, "
            "torchvision:<class> or hf:<path>; see docs/own-data.md"
        ),
    ] = "digits"
    data_dir: Annotated[
        Folder | None,
        PATH,
        SAME_RUN,
        Doc("image folder of the dataset `folder`; for the others, where downloads are kept"),
    ] = None
    train_fraction: Annotated[Share, Doc("share of the training images to use")] = 1.0
    val_fraction: Annotated[
        InnerShare, Doc("share of the training images held out for validation")
    ] = 0.1
    skip_corrupt: Annotated[
        bool,
        Doc("leave out images that cannot be read, with a warning, instead of stopping"),
    ] = False
    resize: Annotated[
        ResizeName,
        Doc("how pictures become squares: crop the centre, stretch, or pad with white"),
    ] = "crop"
    images: Annotated[
        ImagesName,
        SAME_RUN,
        Doc("where images are kept: memory, stream (read batch by batch), or auto: what fits"),
    ] = "auto"
    image_size: Annotated[
        Size,
        Interval(ge=1, le=16384),
        Doc("height and width that images are resized to, in pixels; None: the model's own, or 32"),
    ] = _BY_MODEL
    patch_size: Annotated[
        Size,
        Interval(ge=1),
        Doc(
            "height and width of a patch, in pixels; must divide the image size; None: the "
            "model's own, or 4"
        ),
    ] = _BY_MODEL
    dim: Annotated[
        Size, Interval(ge=1), MultipleOf(4), Doc("token size; None: 128, or the model's own")
    ] = _BY_MODEL
    depth: Annotated[
        Size, Interval(ge=1, le=1000), Doc("transformer layers; None: 6, or the model's own")
    ] = _BY_MODEL
    heads: Annotated[
        Size, Interval(ge=1), Doc("attention heads per layer; None: 16, or the model's own")
    ] = _BY_MODEL
    dim_head: Annotated[
        Size, Interval(ge=1), Doc("size of an attention head; None: 64, or the model's own")
    ] = _BY_MODEL
    mlp_dim: Annotated[
        Size, Interval(ge=1), Doc("hidden size of a layer's MLP; None: 512, or the model's own")
    ] = _BY_MODEL
    model: Annotated[
        Model,
        OrObject("a module or a function of (n_classes, channels)"),
        Doc(
            "simple_vit (the paper's), vit, a model that reduces its tokens itself, timm:<model>, "
            "torchvision:<model>, hf:<folder or name>, vit_pytorch:<class> or <module>:<function>: "
            "see docs/models.md"
        ),
    ] = "simple_vit"
    keep_rate: Annotated[
        float | None,
        Interval(gt=0, le=1),
        Doc("share of tokens that such a model keeps; by default the published one"),
    ] = None
    batch_size: Annotated[Count, Alias("train_batch_size"), Doc("images per training step")] = 64
    epochs: Annotated[
        Count, Doc("passes over the training images; for a budget of FLOPs, passes on all patches")
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
    budget_end: Annotated[
        BudgetEndName,
        Doc(
            "whether using up the budget truncates an episode, or terminates it: then nothing is "
            "earned after it"
        ),
    ] = "truncated"
    learning_rate: Annotated[float, Interval(gt=0), Doc("peak learning rate of the ViT")] = 1e-3
    optimizer: Annotated[
        OptimizerName, Doc("optimizer of the ViT: adam (the paper's) or adamw")
    ] = "adam"
    weight_decay: Annotated[float, Interval(ge=0), Doc("weight decay of the ViT's optimizer")] = 0.0
    schedule: Annotated[
        ScheduleName, Doc("learning rate after the warm-up: constant (the paper's) or cosine")
    ] = "constant"
    warmup_epochs: Annotated[
        int, Interval(ge=0), Doc("epochs of linear warm-up; the same share of other budgets")
    ] = 0
    label_smoothing: Annotated[
        float, Interval(ge=0, lt=1), Doc("label smoothing of the training loss")
    ] = 0.0
    augment: Annotated[
        Augment,
        OrObject("a function of a batch of images"),
        Doc("how training images are augmented: see docs/own-data.md#augmentation"),
    ] = "crop-flip"
    crop_padding: Annotated[
        int, Interval(ge=0), Doc("pixels of padding for random crops; 0 for no cropping")
    ] = 4
    flip: Annotated[
        bool | None, Doc("mirror half of the images; by default if the data set allows it")
    ] = None
    random_erasing: Annotated[
        float, Interval(ge=0, le=1), Doc("probability that a rectangle of an image is erased")
    ] = 0.0
    mixup: Annotated[
        Alpha, Doc("alpha of mixup, which blends two images and their labels; 0 for none")
    ] = 0.0
    cutmix: Annotated[
        Alpha,
        Doc(
            "alpha of CutMix, which pastes a part of another image; 0 for none; with mixup, each "
            "batch gets one of the two"
        ),
    ] = 0.0
    mean: Annotated[
        tuple[Annotated[float, Interval(ge=0, le=1)], ...] | None,
        Doc("of each channel, for normalisation; by default that of the training images"),
    ] = None
    std: Annotated[
        tuple[Annotated[float, Interval(gt=0)], ...] | None,
        Doc("standard deviation of each channel; by default that of the training images"),
    ] = None
    observation: Annotated[
        str,
        Doc(
            "what the agent observes of the next batch: attention_output, attention_standardized "
            "(both also of other layers, as in attention_output:0,3,5 or :mean), "
            "attention_received, class_attention or none; +run at the end appends three features "
            "of the run"
        ),
    ] = "attention_output"
    observe_images: Annotated[
        int | None,
        Interval(ge=1),
        Doc("images of a batch that are observed, the first ones; None: all"),
    ] = None
    reward: Annotated[
        RewardName,
        Doc("what the agent is rewarded for: see docs/environment.md#reward"),
    ] = "paper"
    reward_every: Annotated[
        Count,
        Search(0.005, 0.2, log=True, of="steps", reward="validation"),
        Doc("steps between measurements of the validation loss, for the reward validation"),
    ] = 50
    reward_images: Annotated[
        Count, Doc("number of validation images it is measured on: the first ones of the split")
    ] = 512
    n_patches_desired: Annotated[
        Desired,
        Search(1 / 16, 1.0, log=True, of="patches", reward="paper"),
        Doc(
            "patches that the reward favours and rules keep, at least 1; auto: 40 of 64, and the "
            "same share of other numbers; None: as few as possible"
        ),
    ] = _AUTO
    alpha: Annotated[
        float,
        Interval(ge=0, le=1),
        Search(0.0, 1.0, reward="paper"),
        Doc("weight of the loss against the number of patches"),
    ] = 0.2
    device: Annotated[
        Device,
        SAME_RUN,
        Alias("train_device"),
        Doc("auto (CUDA where available), cpu, cuda or cuda:<n>; agents run on the CPU"),
    ] = "auto"
    precision: Annotated[
        PrecisionName,
        Doc("of matrix products: auto (bf16 where the hardware has it), fp32 or bf16"),
    ] = "auto"
    render_mode: Annotated[
        Literal["rgb_array"] | None,
        SAME_RUN,
        PYTHON_ONLY,
        Doc("rgb_array for images of the selection"),
    ] = None

    def check(self) -> None:
        """Check the arguments that depend on each other.

        Raises:
            ArgumentError: with the name of the invalid one.
        """
        if isinstance(self.dataset, str):
            check_dataset_name(self.dataset)
        self._adopt_sizes()
        check_integer(0, self.image_size, crop_padding=self.crop_padding)
        check_integer(0, self.epochs, warmup_epochs=self.warmup_epochs)
        parse_observation(self.observation)
        if is_own(self.model):
            check_layers(self.observation, self.depth)
        if self.observe_images is not None:
            check_integer(1, self.batch_size, observe_images=self.observe_images)
        for name in ("mixup", "cutmix"):
            if 0 < getattr(self, name) < _MIN_ALPHA:
                raise ArgumentError(
                    name, f"must be 0 or at least {_MIN_ALPHA}, got {getattr(self, name)}"
                )
        if self.n_patches_desired == _AUTO:
            object.__setattr__(self, "n_patches_desired", self.adapted["n_patches_desired"])
        if self.n_patches_desired is not None:
            check_integer(1, self.n_patches, n_patches_desired=self.n_patches_desired)
        if not isinstance(self.model, str) and self.keep_rate is not None:
            raise ArgumentError(
                "keep_rate",
                f"must be None where {named('model')} is an object, got {self.keep_rate}",
            )

    def _adopt_sizes(self) -> None:
        """Set the sizes that were not given: those of the model, or the paper's.

        Raises:
            ArgumentError: for an unknown model, or a size of one that has it by itself.
        """
        if isinstance(self.model, str):
            check_model_name(self.model)
        if has_own_sizes(self.model):
            for name in _SIZES.keys() - {"image_size", "patch_size"}:
                if getattr(self, name) is not None:
                    raise ArgumentError(
                        name,
                        f"must be None, as {named('model')} {self.model} has its own, "
                        f"got {getattr(self, name)}",
                    )
        needed = ("image_size", "patch_size") if has_own_sizes(self.model) else _SIZES
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            defaults = self._sizes
            for name in missing:
                object.__setattr__(self, name, defaults[name])

    @property
    def _sizes(self) -> dict[str, Any]:
        """The default of each size."""
        if has_own_sizes(self.model) or not isinstance(self.model, str):
            from vit_patch_env.models.families import sizes_of_model  # torch takes seconds

            if sizes := sizes_of_model(self.model):
                return dict.fromkeys(_SIZES) | sizes._asdict()
        return _SIZES

    @property
    def adapted(self) -> dict[str, Any]:
        """The defaults that follow from other values."""
        n_desired = max(round(_DESIRED_SHARE * self.n_patches), 1)
        return {"n_patches_desired": n_desired, **self._sizes}

    @property
    def n_patches(self) -> int:
        """Patches of an image."""
        return patches_per_side(self.image_size, self.patch_size) ** 2
