"""The arguments of ScheduleBandit that determine how it learns."""

from typing import Annotated

from annotated_types import Interval
from typing_extensions import Doc

from vit_patch_env.arguments import Search, arguments
from vit_patch_env.patches.sampling import SamplingName


@arguments
class ScheduleOptions:
    """Hyperparameters of ScheduleBandit."""

    common_share: Annotated[
        float,
        Interval(ge=0, le=1),
        Search(0.0, 1.0),
        Doc("share of the variance of schedules' values that all trainings have in common"),
    ] = 0.5
    schedule_scale: Annotated[
        float,
        Interval(ge=0.01),
        Search(0.1, 10.0, log=True),
        Doc("how unlike schedules are whose values differ: 1 is 2.2 times the patches all along"),
    ] = 0.8
    context_scale: Annotated[
        float,
        Interval(ge=0.01),
        Search(0.1, 10.0, log=True),
        Doc("the same of trainings: 1 is a factor of 16 in steps, or of 4 in what steps cost"),
    ] = 0.5
    noise: Annotated[
        float,
        Interval(ge=1e-3),
        Search(0.01, 1.0, log=True),
        Doc("variance of a run's value by chance, relative to that of schedules' values"),
    ] = 0.15
    caution: Annotated[
        float,
        Interval(ge=0),
        Search(0.0, 2.0),
        Doc(
            "where it does not learn: standard deviations of what is not known of a schedule, by "
            "which its value is lowered"
        ),
    ] = 1.0
    sampling: Annotated[SamplingName, Search(), Doc("how patches are sampled")] = "spread"
