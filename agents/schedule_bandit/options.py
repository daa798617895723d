"""The arguments of ScheduleBandit that determine how it learns."""

from typing import Annotated

from annotated_types import Interval
from typing_extensions import Doc

from vit_patch_env.arguments import Search, arguments
from vit_patch_env.patches.sampling import SamplingName


@arguments
class ScheduleOptions:
    """Hyperparameters of ScheduleBandit."""

    prior_precision: Annotated[
        float,
        Interval(gt=0),
        Search(0.1, 100.0, log=True),
        Doc("prior precision of the weights, relative to the precision of a run's value"),
    ] = 1.0
    context_precision: Annotated[
        float,
        Interval(gt=0),
        Search(0.1, 100.0, log=True),
        Doc("the same for weights by which a schedule's value depends on the training"),
    ] = 4.0
    sampling: Annotated[SamplingName, Search(), Doc("how patches are sampled")] = "spread"
