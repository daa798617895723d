"""The arguments of MultiOutputDQN that determine how it learns."""

import math
from typing import Annotated

from annotated_types import Interval
from pydantic.types import AllowInfNan
from typing_extensions import Doc

from vit_patch_env.arguments import arguments


@arguments
class DQNOptions:
    """Hyperparameters of MultiOutputDQN; the defaults are Table 1 of the AgentViT paper."""

    learning_rate: Annotated[float, Interval(gt=0), Doc("learning rate η")] = 0.01
    buffer_size: Annotated[int, Interval(ge=1), Doc("transitions in the replay buffer")] = 1024
    learning_starts: Annotated[
        int, Interval(ge=0), Doc("steps with random actions before learning starts")
    ] = 64
    batch_size: Annotated[int, Interval(ge=1), Doc("transitions per update")] = 64
    tau: Annotated[
        float, Interval(ge=0, le=1), Doc("soft update coefficient τ of the target network")
    ] = 0.1
    gamma: Annotated[float, Interval(ge=0, le=1), Doc("discount factor γ")] = 0.95
    train_freq: Annotated[
        int, Interval(ge=1), Doc("environment steps between updates (the paper's frequency)")
    ] = 10
    gradient_steps: Annotated[
        int, Interval(ge=-1), Doc("updates each time; -1: as many as there were steps")
    ] = 1
    target_update_interval: Annotated[
        int,
        Interval(ge=1),
        Doc("updates between soft updates of the target network (the paper's update_every)"),
    ] = 2
    exploration_initial_eps: Annotated[
        float, Interval(ge=0, le=1), Doc("ε at the first step (the paper's ε_start)")
    ] = 1.0
    exploration_final_eps: Annotated[
        float, Interval(ge=0, le=1), Doc("limit of ε (the paper's ε_end)")
    ] = 0.01
    exploration_decay_steps: Annotated[
        float | None,
        Interval(gt=0, le=math.inf),
        AllowInfNan(True),  # infinity for a constant ε
        Doc("time constant of ε in steps; by default 20,000, less for runs below 39,000 steps"),
    ] = None
    max_grad_norm: Annotated[
        float,
        Interval(gt=0, le=math.inf),
        AllowInfNan(True),  # infinity for no clipping, as in Stable-Baselines3
        Doc("maximum norm for gradient clipping"),
    ] = 10.0
