"""Arguments of the environment: what its agent observes, and what it is rewarded for."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval
from typing_extensions import Doc

from vit_patch_env.arguments import PYTHON_ONLY, SAME_RUN, Search, arguments
from vit_patch_env.checks import Count
from vit_patch_env.names import RewardName

if TYPE_CHECKING:
    Desired = int | None
else:  # values that can be saved and given on the command line
    Desired = int | Literal["auto"] | None

AUTO: Any = "auto"


@arguments
class TaskConfig:
    """What the agent observes, and what it is rewarded for."""

    observation: Annotated[
        str,
        Doc(
            "what the agent observes of the next batch: attention_output, attention_standardized "
            "(both also of other layers, as in attention_output:0,3,5 or :mean), "
            "attention_received, class_attention or none; +run at the end appends three features "
            "of the run"
        ),
    ] = "attention_output"
    per_image: Annotated[
        bool,
        Doc(
            "train each image of a batch on patches of its own: those that the action selects, "
            "moved by rows and columns at random, around the edges of the image"
        ),
    ] = False
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
    ] = AUTO
    alpha: Annotated[
        float,
        Interval(ge=0, le=1),
        Search(0.0, 1.0, reward="paper"),
        Doc("weight of the loss against the number of patches"),
    ] = 0.2
    render_mode: Annotated[
        Literal["rgb_array", "human"] | None,
        SAME_RUN,
        PYTHON_ONLY,
        Doc("rgb_array for pictures of the training, human for a window that shows them"),
    ] = None
