"""The agents of this package by name, and the functions that construct them."""

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple, cast

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import (
    RULES,
    SCHEDULES,
    FixedRule,
    GrowingCount,
    MultiOutputDQN,
    PatchBandit,
    ScheduleBandit,
    ScheduledCount,
    SelectorPolicy,
)
from vit_patch_env.agents.multi_output_dqn.exploration import default_decay_steps
from vit_patch_env.checks import ArgumentError, counted, named
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.system.limits import memory_limit

RULE_BY_SAMPLING = {"uniform": "random", "spread": "spread"}
"""The rule for each way of sampling."""


class Request(NamedTuple):
    """What an agent is constructed for.

    Attributes:
        options: of the run.
        env: that determines the run's sizes.
        training_env: that the agent acts in: the environment, wrapped, or vectorised ones.
    """

    options: TrainOptions
    env: ViTPatchSelectEnv
    training_env: gym.Env[Any, Any] | VecEnv

    @property
    def shared(self) -> dict[str, Any]:
        """Arguments of every agent."""
        return {"seed": self.options.seed, "device": "cpu"}


class _BeforeImages:
    """An environment whose images are not loaded, for checks alone: the length of a run is a guess.

    Args:
        env: the environment, for everything else.
    """

    expected_steps = 10_000

    def __init__(self, env: ViTPatchSelectEnv) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


def before_images(env: ViTPatchSelectEnv) -> ViTPatchSelectEnv:
    """The environment for checks that need no images, in which runs have any number of steps."""
    return cast("ViTPatchSelectEnv", _BeforeImages(env))


Maker = Callable[[Request], BaseAlgorithm]


def make_dqn(policy: str, request: Request) -> BaseAlgorithm:
    """The paper's agent with one of its policies."""
    values = asdict(request.options.dqn)
    _check_buffer(values["buffer_size"], request.env)
    if values["exploration_decay_steps"] is None and request.options.env.budget != "epochs":
        # The algorithm does not know the number of steps, which `learn` only bounds.
        values["exploration_decay_steps"] = default_decay_steps(request.env.expected_steps)
    return MultiOutputDQN(policy, request.training_env, **values, **request.shared)


def _check_buffer(n_transitions: int, env: ViTPatchSelectEnv) -> None:
    """Refuse a replay buffer larger than the memory, before it is allocated."""
    spaces = (env.observation_space, env.observation_space, env.action_space)
    values = sum(math.prod(space.shape or ()) for space in spaces)
    if n_transitions * values > memory_limit():  # at least a byte each
        raise ArgumentError(
            "dqn.buffer_size",
            f"must fit into memory, got {n_transitions} transitions of {values} values",
        )


def make_bandit(request: Request) -> BaseAlgorithm:
    """The bandit."""
    keywords = request.options.bandit.keywords()
    return PatchBandit("BanditPolicy", request.training_env, **keywords, **request.shared)


def make_schedule_bandit(request: Request) -> BaseAlgorithm:
    """The bandit on schedules."""
    keywords = asdict(request.options.schedule_bandit)
    return ScheduleBandit(
        "SchedulePolicy", request.training_env, policy_kwargs=keywords, **request.shared
    )


def make_rule(name: str, request: Request) -> BaseAlgorithm:
    """A fixed rule that keeps the desired number of patches."""
    n_keep = request.env.config.n_patches_desired
    if n_keep is None and name != "all":
        raise ArgumentError(
            "agent", f"{name} needs {named('n_patches_desired')}, the number to keep, got None"
        )
    return FixedRule(name, request.training_env, n_keep=n_keep, **request.shared)


def make_schedule(name: str, request: Request) -> BaseAlgorithm:
    """Random patches, with their number from a schedule."""
    count = ScheduledCount(name, request.env.n_patches, math.ceil(request.env.epochs))
    rule = RULE_BY_SAMPLING[request.options.sampling]
    return FixedRule(rule, request.training_env, n_keep=count, **request.shared)


def make_growing(request: Request) -> BaseAlgorithm:
    """Random patches, a growing number of them."""
    count = GrowingCount(request.options.growing, request.env.n_patches)
    rule = RULE_BY_SAMPLING[request.options.sampling]
    return FixedRule(rule, request.training_env, n_keep=count, **request.shared)


def make_matched(request: Request) -> BaseAlgorithm:
    """Random patches, as many in each step as in another run."""
    options = request.options
    if options.follow is None:
        raise ArgumentError(
            "follow",
            f"must be a run if and only if {named('agent')} is matched, "
            f"got {named('agent')} {options.agent} and {named('follow')} {options.follow}",
        )
    followed = RunFolder(options.follow)
    followed.check_finished("follow")
    counts = followed.read_steps()
    n_steps = request.env.expected_steps
    if len(counts) != n_steps and not isinstance(request.env, _BeforeImages):
        raise ArgumentError(
            "follow",
            f"must be a run of {counted(n_steps, 'step')}, got {options.follow} of {len(counts):,}",
        )
    rule = RULE_BY_SAMPLING[options.sampling]
    return FixedRule(rule, request.training_env, n_keep=counts, **request.shared)


def _scales_exploration(options: TrainOptions) -> bool:
    """Whether the decay of ε is scaled to the run's length."""
    return options.dqn.exploration_decay_steps is None


class AgentKind(NamedTuple):
    """The kind of agent that a name refers to.

    Attributes:
        algorithm: that learns or acts.
        make: constructs the agent.
        options: fields of `TrainOptions` that it accepts and not all agents do.
        observation: its default observation; None for that of the environment.
        on_any_grid: whether it decides in shares of the patches, so that what it has learned is
            used on any number of them.
        doc: what it does, for the documentation; rules and schedules have docstrings.
        depends_on_length: whether its course depends on the length of the run, though it does not
            observe it.
    """

    algorithm: type[BaseAlgorithm]
    make: Maker
    options: frozenset[str] = frozenset()
    observation: str | None = None
    doc: str = ""
    depends_on_length: Callable[[TrainOptions], bool] = lambda options: True
    on_any_grid: bool = False


AGENTS: dict[str, AgentKind] = {
    "paper": AgentKind(
        MultiOutputDQN, partial(make_dqn, "MlpPolicy"), frozenset({"dqn"}),
        doc="the paper's agent, `MlpPolicy`: one value per patch, every patch above the mean is "
        "kept",
        depends_on_length=_scales_exploration,
    ),
    "branching": AgentKind(
        MultiOutputDQN, partial(make_dqn, "BranchingMlpPolicy"), frozenset({"dqn"}),
        doc="`BranchingMlpPolicy`: two values per patch (drop, keep), after Tavakoli et al. 2018; "
        "can represent any mask",
        depends_on_length=_scales_exploration,
    ),
    "counting": AgentKind(
        MultiOutputDQN, partial(make_dqn, "CountMlpPolicy"), frozenset({"dqn"}), "none+run",
        doc="`CountMlpPolicy`: one value per number of patches, by how far the run is; spread "
        "patches, on any grid",
        depends_on_length=_scales_exploration, on_any_grid=True,
    ),
    "bandit": AgentKind(
        PatchBandit, make_bandit, frozenset({"bandit"}), "none+run", on_any_grid=True,
        doc="`BanditPolicy`: a contextual bandit on the number of patches at each point of the "
        "run, with a score for each patch; needs an observation with `+run`",
    ),
    "schedule_bandit": AgentKind(
        ScheduleBandit, make_schedule_bandit, frozenset({"schedule_bandit"}), "none+run",
        doc="`SchedulePolicy`: a contextual bandit on schedules of the family `growing`, with the "
        "training as context; needs an observation with `+run`",
        on_any_grid=True,
    ),
    **{
        name: AgentKind(
            FixedRule, partial(make_rule, name), observation=rule.observation,
            depends_on_length=lambda options: False, on_any_grid=True,
        )
        for name, rule in RULES.items()
    },
    **{
        name: AgentKind(
            FixedRule, partial(make_schedule, name), frozenset({"sampling"}),
            observation=SelectorPolicy.observation, on_any_grid=True,
        )
        for name in SCHEDULES
    },
    "growing": AgentKind(
        FixedRule, make_growing, frozenset({"sampling", "growing"}),
        observation=SelectorPolicy.observation, on_any_grid=True,
        doc="random patches, whose number grows over the run with a power of the progress",
    ),
    "matched": AgentKind(
        FixedRule, make_matched, frozenset({"sampling", "follow"}),
        observation=SelectorPolicy.observation,
        doc="random patches, in each step as many as in the run that `--follow` names",
    ),
}  # fmt: skip
"""Agents of this package; other names are those of Stable-Baselines3's algorithms and of files."""
