"""The number of patches over a run, of agents that fix it before the run."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from vit_patch_env.agents import RULES, SCHEDULES, GrowingCount, ScheduledCount
from vit_patch_env.agents.fixed_rules.growing import GrowingOptions
from vit_patch_env.checks import ArgumentError, counted, named
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.agent_file import agent_path
from vit_patch_env.experiments.agents_by_name.factory import agent_kind
from vit_patch_env.experiments.agents_by_name.learned import StepCost, learned_schedule
from vit_patch_env.experiments.options.commands import PlanOptions


class KnownSchedule(NamedTuple):
    """How many patches are kept over a run.

    Attributes:
        n_keep: maps the share of the budget used, in [0, 1), to a number of patches.
        words: the same in words.
    """

    n_keep: Callable[[float], int]
    words: str


def known_schedule(
    options: PlanOptions, config: EnvConfig, n_steps: int, step_cost: StepCost
) -> KnownSchedule:
    """The schedule of an agent, as it acts in `vit-patch train`.

    Args:
        options: with the agent.
        config: with the grid of patches, and the number that fixed rules keep.
        n_steps: steps on all patches that the budget is worth.
        step_cost: maps a number of patches to what a step uses of the budget, in any unit.

    Raises:
        ArgumentError: as `check_agent`, or for a file that holds no bandit.
    """
    agent, n_patches = options.agent, config.n_patches
    check_agent(options)
    if agent_path(agent) is not None:
        learned = learned_schedule(agent, config.grid, n_steps, step_cost)
        n_keep = partial(_rounded, shares=learned.shares, n_patches=n_patches)
        return KnownSchedule(n_keep, learned.words)
    if agent == "growing":
        return KnownSchedule(GrowingCount(options.growing, n_patches), options.growing.described())
    if agent in SCHEDULES:
        return KnownSchedule(ScheduledCount(agent, n_patches, math.ceil(options.epochs)), agent)
    kept = n_patches if agent == "all" else config.n_patches_desired
    assert isinstance(kept, int)
    return KnownSchedule(partial(_constant, kept=kept), f"{kept} of {counted(n_patches, 'patch')}")


def check_agent(options: PlanOptions) -> None:
    """Refuse an agent without a schedule before the run, or values of another agent.

    Args:
        options: with the agent.

    Raises:
        ArgumentError: for such an agent or value.
    """
    agent = options.agent
    # Rules that observe something also cost more than their steps.
    rules = [name for name, rule in RULES.items() if rule.observation == "none"]
    known = ["pretrained", *rules, *SCHEDULES, "growing"]
    if agent not in known and agent_path(agent) is None:
        agent_kind(agent)  # refuses an unknown one
        raise ArgumentError(
            "agent",
            "must be one whose number of patches is known before a run, the file of a bandit or "
            f"one of {', '.join(known)}, got {agent}",
        )
    fixed = [name for name in rules if name != "all"]
    if options.n_patches_desired is not None and agent not in fixed:
        raise ArgumentError(
            "n_patches_desired", f"belongs to {', '.join(fixed)}, got {named('agent')} {agent}"
        )
    if options.growing != GrowingOptions() and agent != "growing":
        raise ArgumentError("growing", f"belongs to growing, got {named('agent')} {agent}")


def _constant(progress: float, kept: int) -> int:
    return kept


def _rounded(progress: float, shares: Callable[[float], float], n_patches: int) -> int:
    return min(max(round(shares(progress) * n_patches), 1), n_patches)
