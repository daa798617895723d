"""What an agent in a file has learned, without its environment."""

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.agents import BanditPolicy, GrowingOptions, RunContext, SchedulePolicy
from vit_patch_env.agents.common.patch_policy import RUN_FEATURES, PatchPolicy
from vit_patch_env.checks import ArgumentError, InputError, shown
from vit_patch_env.experiments.agents_by_name.agent_file import (
    agent_path,
    read_card,
    read_parameters,
)
from vit_patch_env.patches.sampling import Grid, SamplingName
from vit_patch_env.patches.shares import COST_SHARES, counts_at

PolicyT = TypeVar("PolicyT", bound=PatchPolicy)

StepCost = Callable[[int], float]
"""Maps a number of patches to the cost of a step, in any unit."""


class LearnedSchedule(NamedTuple):
    """What a bandit does in a training.

    Attributes:
        shares: maps the share of the budget used to a share of the patches.
        sampling: how patches are sampled.
        scores: of the patches, (n_patches,), for the sampling.
        words: the schedule in words.
    """

    shares: Callable[[float], float]
    sampling: SamplingName
    scores: NDArray[np.float64]
    words: str


def learned_schedule(
    agent: str, grid: Grid, budget_steps: int, step_cost: StepCost
) -> LearnedSchedule:
    """The schedule of a bandit, as it acts where it does not learn.

    Args:
        agent: `pretrained`, or the file of a bandit.
        grid: rows and columns of patches.
        budget_steps: steps on all patches that the budget is worth.
        step_cost: of a step; asked only for an agent that decides by it.

    Raises:
        ArgumentError: for a name, a file that is not an agent's, or an agent that needs an
            observation.
    """
    path = agent_path(agent) if isinstance(agent, str) else None
    if path is None:
        raise ArgumentError(
            "agent", f"must be pretrained or the file of a bandit, got {shown(agent)}"
        )
    card = read_card(path)
    if card.agent == "bandit":
        values = card.bandit.keywords()["policy_kwargs"]
        return _of_bandit(_load(path, BanditPolicy, grid, values), budget_steps)
    if card.agent == "schedule_bandit":
        values = asdict(card.schedule_bandit)
        policy = _load(path, SchedulePolicy, grid, values)
        return _of_schedule_bandit(policy, budget_steps, step_cost)
    raise ArgumentError(
        "agent",
        "must be a bandit, which decides by the share of the budget used, got "
        f"{agent} ({card.agent}), which observes {card.observation}: it needs the environment, "
        "vit-patch train or gym.make",
    )


def _load(path: Path, kind: type[PolicyT], grid: Grid, values: dict[str, Any]) -> PolicyT:
    """The policy in a file, for a grid of patches.

    Args:
        path: of the agent.
        kind: of the policy.
        grid: rows and columns of patches.
        values: of the policy's other arguments.
    """
    n_patches = math.prod(grid)
    policy = kind(
        spaces.Box(0, 1, (n_patches + RUN_FEATURES,)),  # which it does not see here
        spaces.MultiBinary(n_patches),
        grid=grid,
        **values,
    )
    try:
        policy.load_state_dict(read_parameters(path)["policy"])
    except (InputError, LookupError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise ArgumentError("agent", f"{path} cannot be loaded: {reason}") from error
    return policy


def _of_bandit(policy: BanditPolicy, budget_steps: int) -> LearnedSchedule:
    """By the length of the training."""
    weights, scores = policy.of_counts.mean(), policy.of_patches.mean().numpy()
    shares = partial(_bandit_share, policy=policy, budget_steps=budget_steps, weights=weights)
    return LearnedSchedule(shares, policy.sampling, scores, "the bandit's number at each point")


def _of_schedule_bandit(
    policy: SchedulePolicy, budget_steps: int, step_cost: StepCost
) -> LearnedSchedule:
    """By the length of the training, and by what steps on few patches cost."""
    n_patches = policy.n_patches
    costs = [step_cost(count) for count in counts_at(COST_SHARES, n_patches)]
    relative = tuple(cost / costs[-1] for cost in costs)
    # The best schedule does not depend on images, classes and parameters.
    policy.use(RunContext(budget_steps, 0, 0, n_patches, 0, relative))
    shares = partial(_growing_share, schedule=policy.schedule)
    words = policy.schedule.described()
    return LearnedSchedule(shares, policy.sampling, np.zeros(n_patches), words)


def _bandit_share(
    progress: float, policy: BanditPolicy, budget_steps: int, weights: Tensor
) -> float:
    """The share that a bandit's posterior mean chooses for a budget of so many steps."""
    return policy.best_count(_observed(progress), budget_steps, weights) / policy.n_patches


def _growing_share(progress: float, schedule: GrowingOptions) -> float:
    return schedule.share(_observed(progress))


def _observed(progress: float) -> float:
    """The progress as agents observe it in an environment."""
    return float(np.float32(progress))
