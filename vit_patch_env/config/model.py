"""Arguments of the environment: the ViT, its sizes, and the weights that it starts from."""

from typing import TYPE_CHECKING, Annotated, Any, get_args

from annotated_types import Interval, MultipleOf
from typing_extensions import Doc

from vit_patch_env.arguments import OrObject, arguments, declared
from vit_patch_env.checks import LAYERS, PATH, ArgumentError, Side, named, shown
from vit_patch_env.models.model_names import check_model_name, family_of, has_own_sizes
from vit_patch_env.names import PublishedFamily
from vit_patch_env.patches.grid import height_width, patch_grid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    Model = str | nn.Module | Callable[[int, int], nn.Module]
    Folder = str | Path
    Size = int
    Sides = int | tuple[int, int]
else:  # values that can be saved and given on the command line
    Model, Folder, Size = str, str, int | None
    Sides = Side | tuple[Side, Side] | None

BY_MODEL: Any = None
"""The default of what follows from the model."""

PAPERS_SIZES = {
    "image_size": 32, "patch_size": 4, "dim": 128, "depth": 6, "heads": 16, "dim_head": 64,
    "mlp_dim": 512,
}  # fmt: skip
"""Of a ViT without sizes of its own."""


@arguments
class SizeConfig:
    """Sizes of a ViT."""

    image_size: Annotated[
        Sides,
        Doc(
            "height and width that images are resized to, in pixels, one number for squares; "
            "None: the model's own, or 32"
        ),
    ] = BY_MODEL
    patch_size: Annotated[
        Size,
        Interval(ge=1),
        Doc(
            "height and width of a patch, in pixels; must divide those of images; None: the "
            "model's own, or 4"
        ),
    ] = BY_MODEL
    dim: Annotated[
        Size, Interval(ge=1), MultipleOf(4), Doc("token size; None: 128, or the model's own")
    ] = BY_MODEL
    depth: Annotated[Size, LAYERS, Doc("transformer layers; None: 6, or the model's own")] = (
        BY_MODEL
    )
    heads: Annotated[
        Size, Interval(ge=1), Doc("attention heads per layer; None: 16, or the model's own")
    ] = BY_MODEL
    dim_head: Annotated[
        Size, Interval(ge=1), Doc("size of an attention head; None: 64, or the model's own")
    ] = BY_MODEL
    mlp_dim: Annotated[
        Size, Interval(ge=1), Doc("hidden size of a layer's MLP; None: 512, or the model's own")
    ] = BY_MODEL


@arguments
class ModelConfig(SizeConfig):
    """The ViT that is trained."""

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

    @property
    def starts_from_weights(self) -> bool:
        """Whether training starts from given weights rather than fresh ones."""
        return self.pretrained or self.weights is not None

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes by name; None for those that a library's model has by itself."""
        return {one.name: getattr(self, one.name) for one in declared(SizeConfig)}

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

    @property
    def default_sizes(self) -> dict[str, Any]:
        """The default of each size."""
        if has_own_sizes(self.model) or not isinstance(self.model, str):
            from vit_patch_env.models.families import sizes_of_model  # torch takes seconds

            if sizes := sizes_of_model(self.model):
                return dict.fromkeys(PAPERS_SIZES) | sizes._asdict()
        return PAPERS_SIZES

    def _adopt_sizes(self) -> None:
        """Set the sizes that were not given: those of the model, or the paper's.

        Raises:
            ArgumentError: for an unknown model, or a size of one that has it by itself.
        """
        if isinstance(self.model, str):
            check_model_name(self.model)
        if has_own_sizes(self.model):
            for name in PAPERS_SIZES.keys() - {"image_size", "patch_size"}:
                if getattr(self, name) is not None:
                    raise ArgumentError(
                        name,
                        f"must be None, as {named('model')} {self.model} has its own, "
                        f"got {getattr(self, name)}",
                    )
        needed = ("image_size", "patch_size") if has_own_sizes(self.model) else PAPERS_SIZES
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            defaults = self.default_sizes
            for name in missing:
                object.__setattr__(self, name, defaults[name])

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
