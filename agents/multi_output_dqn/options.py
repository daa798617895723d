"""The arguments of MultiOutputDQN that determine how it learns."""

import math
from typing import Annotated

from annotated_types import Interval
from pydantic.types import AllowInfNan
from typing_extensions import Doc

from vit_patch_env.arguments import Search, arguments


@arguments
class DQNOptions:
    """Hyperparameters of MultiOutputDQN; the defaults are Table 1 of the AgentViT paper."""

    learning_rate: Annotated[
        float, Interval(gt=0), Search(1e-4, 0.1, log=True), Doc("learning rate η")
    ] = 0.01
    buffer_size: Annotated[
        int,
        Interval(ge=1),
        Search(128, 8192, log=True),
        Doc("transitions in the replay buffer"),
    ] = 1024
    learning_starts: Annotated[
        int,
        Interval(ge=0),
        Search(8, 256, log=True),
        Doc("steps with random actions before learning starts"),
    ] = 64
    batch_size: Annotated[
        int, Interval(ge=1), Search(16, 256, log=True), Doc("transitions per update")
    ] = 64
    tau: Annotated[
        float,
        Interval(ge=0, le=1),
        Search(0.01, 1.0, log=True),
        Doc("soft update coefficient τ of the target network"),
    ] = 0.1
    gamma: Annotated[float, Interval(ge=0, le=1), Search(0.0, 0.99), Doc("discount factor γ")] = (
        0.95
    )
    train_freq: Annotated[
        int,
        Interval(ge=1),
        Search(1, 32, log=True),
        Doc("environment steps between updates (the paper's frequency)"),
    ] = 10
    gradient_steps: Annotated[
        int, Interval(ge=-1), Doc("updates each time; -1: as many as there were steps")
    ] = 1
    target_update_interval: Annotated[
        int,
        Interval(ge=1),
        Search(1, 16, log=True),
        Doc("updates between soft updates of the target network (the paper's update_every)"),
    ] = 2
    exploration_initial_eps: Annotated[
        float, Interval(ge=0, le=1), Doc("ε at the first step (the paper's ε_start)")
    ] = 1.0
    exploration_final_eps: Annotated[
        float,
        Interval(ge=0, le=1),
        Search(0.001, 0.2, log=True),
        Doc("limit of ε (the paper's ε_end)"),
    ] = 0.01
    exploration_decay_steps: Annotated[
        float | None,
        Interval(gt=0, le=math.inf),
        AllowInfNan(True),  # infinity for a constant ε
        Search(0.02, 2.0, log=True, of="steps"),
        Doc("time constant of ε in steps; by default 20,000, less for runs below 39,000 steps"),
    ] = None
    max_grad_norm: Annotated[
        float,
        Interval(gt=0, le=math.inf),
        AllowInfNan(True),  # infinity for no clipping, as in Stable-Baselines3
        Doc("maximum norm for gradient clipping"),
    ] = 10.0
