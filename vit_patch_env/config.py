"""The arguments of `ViTPatchSelect-v0`, each declared once. Importing them does not need torch."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from annotated_types import Interval, MultipleOf
from typing_extensions import Doc

from vit_patch_env.arguments import PYTHON_ONLY, SAME_RUN, Alias, OrObject, Search, arguments
from vit_patch_env.checks import PATH, ArgumentError, InnerShare, Share, check_integer, named, shown
from vit_patch_env.data.dataset_names import check_dataset_name
from vit_patch_env.models.model_names import (
    check_model_name,
    family_of,
    has_own_sizes,
    is_own,
)
from vit_patch_env.names import (
    AugmentName,
    BudgetEndName,
    BudgetName,
    ImagesName,
    InterpolationName,
    OptimizerName,
    PrecisionName,
    PublishedFamily,
    ResizeName,
    RewardName,
    ScheduleName,
)
from vit_patch_env.observation_text import check_layers, parse_observation
from vit_patch_env.patches.grid import height_width, patch_grid

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, device, nn

    from vit_patch_env.data.splits import ImageData
    from vit_patch_env.data.texts import TextData

    MakeModel = Callable[[int, int], nn.Module]
    Dataset = str | ImageData | TextData
    Model = str | nn.Module | MakeModel
    Augment = AugmentName | Callable[[Tensor], Tensor]
    Folder = str | Path
    Device = str | device
    Loss = str | Callable[[Tensor, Tensor], Tensor] | None
    Desired = int | None
    Size = int
else:  # values that can be saved and given on the command line
    Dataset, Model, Augment, Folder, Device = str, str, AugmentName, str, str
    Loss = str | None
    Size = int | None
    Desired = int | Literal["auto"] | None

Count = Annotated[int, Interval(ge=1)]
Side = Annotated[int, Interval(ge=1, le=16384)]

if TYPE_CHECKING:
    Sides = int | tuple[int, int]
else:
    Sides = Side | tuple[Side, Side] | None

FromZero = Annotated[int, Interval(ge=0)]
Alpha = Annotated[float, Interval(ge=0)]
Weight = Annotated[float, Interval(gt=0)]

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
        OrObject("an ImageData or a TextData"),
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
        Doc("how pictures get the images' shape: crop the centre, stretch, or pad with white"),
    ] = "crop"
    interpolation: Annotated[
        InterpolationName | None,
        Doc("of resizing; None: as for the weights that training starts from, or bilinear"),
    ] = None
    images: Annotated[
        ImagesName,
        SAME_RUN,
        Doc("where images are kept: memory, stream (read batch by batch), or auto: what fits"),
    ] = "auto"
    image_size: Annotated[
        Sides,
        Doc(
            "height and width that images are resized to, in pixels, one number for squares; "
            "None: the model's own, or 32"
        ),
    ] = _BY_MODEL
    patch_size: Annotated[
        Size,
        Interval(ge=1),
        Doc(
            "height and width of a patch, in pixels; must divide those of images; None: the "
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
    pretrained: Annotated[
        bool,
        Doc(
            "start from the weights that the model's library publishes, downloaded on first use: "
            "see docs/fine-tuning.md"
        ),
    ] = False
    weights: Annotated[
        Folder | None,
        PATH,
        Doc("file of weights to start from: safetensors, or of torch.save"),
    ] = None
    new_head: Annotated[
        bool, Doc("start with a new head in place of that of the weights, for other classes")
    ] = False
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
        int, Interval(ge=0), Doc("epochs of linear warm-up; the same share of other budgets")
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
        Doc("of each channel, to normalise; None: as for the weights, or of the training images"),
    ] = None
    std: Annotated[
        tuple[Annotated[float, Interval(gt=0)], ...] | None,
        Doc("standard deviation of each channel; None: as mean"),
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
        Doc(
            "of matrix products: auto (bf16 where the hardware has it), fp32, bf16, or fp16 with a "
            "scaled loss (CUDA only)"
        ),
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
        if hasattr(self.dataset, "n_tokens"):
            self._adopt_text(self.dataset.n_tokens)
        self._adopt_sizes()
        self._check_weights()
        self._adopt_preprocessing()
        if self.size[0] == self.size[1]:  # so that a size has one form, in files as well
            object.__setattr__(self, "image_size", self.size[0])
        check_integer(0, min(self.size), crop_padding=self.crop_padding)
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
        self._check_optimizer()
        self._check_loss()
        if self.n_patches_desired == _AUTO:
            object.__setattr__(self, "n_patches_desired", self.adapted["n_patches_desired"])
        if self.n_patches_desired is not None:
            check_integer(1, self.n_patches, n_patches_desired=self.n_patches_desired)
        if not isinstance(self.model, str) and self.keep_rate is not None:
            raise ArgumentError(
                "keep_rate",
                f"must be None where {named('model')} is an object, got {self.keep_rate}",
            )

    def _check_optimizer(self) -> None:
        """Refuse a momentum that the optimizer would ignore, or needs."""
        if self.momentum is not None and not self.optimizer.startswith("sgd"):
            raise ArgumentError(
                "momentum", f"is of sgd and sgd_nesterov, got {named('optimizer')} {self.optimizer}"
            )
        if self.momentum == 0 and self.optimizer == "sgd_nesterov":
            raise ArgumentError("momentum", "must be above 0 for sgd_nesterov, got 0.0")

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
    def starts_from_weights(self) -> bool:
        """Whether training starts from given weights rather than fresh ones."""
        return self.pretrained or self.weights is not None

    def _check_weights(self) -> None:
        """Refuse arguments about weights that contradict each other."""
        if self.pretrained and self.weights is not None:
            raise ArgumentError(
                "weights", f"must not be given with {named('pretrained')}, got {self.weights}"
            )
        if self.new_head and not self.starts_from_weights:
            raise ArgumentError(
                "new_head", f"is for {named('pretrained')} or {named('weights')}, got neither"
            )
        if self.pretrained and family_of(self.model) not in get_args(PublishedFamily):
            raise ArgumentError(
                "pretrained",
                f"is for models of {', '.join(get_args(PublishedFamily))}, whose weights are "
                f"published, got {named('model')} {shown(self.model)}",
            )

    def _adopt_preprocessing(self) -> None:
        """Set what was not given of mean, std and interpolation: as for the weights."""
        names = [one for one in ("mean", "std", "interpolation") if getattr(self, one) is None]
        if names and self.starts_from_weights:
            from vit_patch_env.models.weights.preprocessing import preprocessing_of  # needs torch

            own = preprocessing_of(self.model, self.weights)
            for name in names:
                object.__setattr__(self, name, getattr(own, name))
        if self.interpolation is None:
            object.__setattr__(self, "interpolation", "bilinear")

    @property
    def _sizes(self) -> dict[str, Any]:
        """The default of each size."""
        if has_own_sizes(self.model) or not isinstance(self.model, str):
            from vit_patch_env.models.families import sizes_of_model  # torch takes seconds

            if sizes := sizes_of_model(self.model):
                return dict.fromkeys(_SIZES) | sizes._asdict()
        return _SIZES

    def _adopt_text(self, n_tokens: int) -> None:
        """Set what texts leave no choice of: a row of tokens, each a patch, and no augmentation.

        Raises:
            ArgumentError: for an argument that would change images.
        """
        of_texts = {
            "image_size": (1, n_tokens), "patch_size": 1, "augment": "none", "crop_padding": 0,
            "flip": None, "random_erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "mean": None,
            "std": None,
        }  # fmt: skip
        for name, value in of_texts.items():
            given = getattr(self, name)
            if given not in (value, getattr(type(self), name)):
                raise ArgumentError(
                    name,
                    f"must be {value} where {named('dataset')} is of texts, got {shown(given)}",
                )
            object.__setattr__(self, name, value)

    @property
    def adapted(self) -> dict[str, Any]:
        """The defaults that follow from other values."""
        n_desired = max(round(_DESIRED_SHARE * self.n_patches), 1)
        return {"n_patches_desired": n_desired, **self._sizes}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of images, in pixels; of texts, 1 and their tokens."""
        return height_width(self.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of an image."""
        return patch_grid(self.image_size, self.patch_size)

    @property
    def n_patches(self) -> int:
        """Patches of an image."""
        rows, columns = self.grid
        return rows * columns
