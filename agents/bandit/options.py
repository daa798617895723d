"""The arguments of PatchBandit and its policy that determine how it learns."""

from dataclasses import asdict
from typing import Annotated, Any

from annotated_types import Interval
from typing_extensions import Doc

from vit_patch_env.arguments import Search, arguments
from vit_patch_env.patches.sampling import SamplingName


@arguments
class BanditOptions:
    """Hyperparameters of PatchBandit, then those of BanditPolicy."""

    decision_steps: Annotated[
        int | None,
        Interval(ge=1),
        Search(0.01, 0.5, log=True, of="steps"),
        Doc("steps per decision; None: one decision per episode"),
    ] = None
    forgetting: Annotated[
        float,
        Interval(gt=0, le=1),
        Search(0.8, 1.0),
        Doc("factor on the weight of earlier decisions at each update"),
    ] = 1.0
    n_stages: Annotated[
        int,
        Interval(ge=2),
        Search(2, 8),
        Doc("points of the run between which weights are interpolated"),
    ] = 4
    prior_precision: Annotated[
        float,
        Interval(gt=0),
        Search(0.001, 10.0, log=True),
        Doc("prior precision of the weights of numbers of patches"),
    ] = 0.1
    score_precision: Annotated[
        float,
        Interval(gt=0),
        Search(1.0, 10000.0, log=True),
        Doc("prior precision of the patches' scores"),
    ] = 100.0
    sampling: Annotated[SamplingName, Search(), Doc("how patches are sampled")] = "spread"

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of PatchBandit; those of its policy are in `policy_kwargs`."""
        values = asdict(self)
        own = {name: values.pop(name) for name in ("decision_steps", "forgetting")}
        return {**own, "policy_kwargs": values}
