"""Arguments of the environment: the images, and how they are augmented and normalised."""

from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval
from typing_extensions import Doc

from vit_patch_env.arguments import SAME_RUN, OrObject, arguments
from vit_patch_env.checks import PATH, ArgumentError, InnerShare, Share, named, shown
from vit_patch_env.names import AugmentName, ImagesName, InterpolationName, ResizeName

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from vit_patch_env.data.splits import ImageData
    from vit_patch_env.data.texts import TextData

    Dataset = str | ImageData | TextData
    Augment = AugmentName | Callable[[Tensor], Tensor]
    Folder = str | Path
else:  # values that can be saved and given on the command line
    Dataset, Augment, Folder = str, AugmentName, str

Alpha = Annotated[float, Interval(ge=0)]

_MIN_ALPHA = 0.01
"""Below, samples of the Beta distribution underflow to equal shares in float32."""

LOADING = ("data_dir", "train_fraction", "val_fraction", "skip_corrupt", "resize", "images")
"""How the images of a name are loaded."""


@arguments
class DataConfig:
    """The images that the ViT is trained on."""

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

    def _check_object(self) -> None:
        """Refuse how to load images that are loaded already."""
        if isinstance(self.dataset, str):
            return
        for name in LOADING:
            value, default = getattr(self, name), getattr(type(self), name)
            if value != default:
                raise ArgumentError(
                    name,
                    f"is of data sets by name, and must be {default} where {named('dataset')} is "
                    f"an object, got {shown(value)}",
                )

    def _check_mixing(self) -> None:
        """Refuse shares of mixed images that cannot be drawn."""
        for name in ("mixup", "cutmix"):
            if 0 < getattr(self, name) < _MIN_ALPHA:
                raise ArgumentError(
                    name, f"must be 0 or at least {_MIN_ALPHA}, got {getattr(self, name)}"
                )
