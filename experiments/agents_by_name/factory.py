"""Agents by name: the paper's and its variants, the bandit, fixed rules, Stable-Baselines3's."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch.optim import Optimizer

from vit_patch_env import CountAction, TopKAction, ViTPatchSelectEnv
from vit_patch_env.agents import (
    Frozen,
    PatchBandit,
    ScheduleBandit,
)
from vit_patch_env.checks import ArgumentError, InputError, counted, named
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.agent_file import (
    AgentCard,
    agent_path,
    read_card,
    read_parameters,
)
from vit_patch_env.experiments.agents_by_name.stable_baselines import make_sb3, sb3_algorithm
from vit_patch_env.experiments.agents_by_name.table import AGENTS, AgentKind, Request, before_images
from vit_patch_env.experiments.options.commands import ActionsName, TrainOptions
from vit_patch_env.system.tensors import check_optimizer_state

ACTIONS: dict[ActionsName, Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]] = {
    "mask": lambda env: env,
    "count": CountAction,
    "top_k": TopKAction,
}


_OPTIONS_OF_SOME = (*TrainOptions().of_agent, "sampling", "follow")
"""Fields of `TrainOptions` that only some agents accept."""


def agent_kind(name: str) -> AgentKind:
    """The kind of an agent, given by its name or file.

    Raises:
        ArgumentError: for an unknown name.
    """
    path = agent_path(name)
    if path is not None:
        name = read_card(path).agent
    if name in AGENTS:
        return AGENTS[name]
    algorithm = sb3_algorithm(name)
    if algorithm is not None:
        return AgentKind(algorithm, partial(make_sb3, algorithm, name), frozenset({"sb3"}))
    known = [*AGENTS, "pretrained"]
    raise ArgumentError(
        "agent",
        f"must be one of {', '.join(known)}, the file of a pre-trained one, or an algorithm of "
        f"Stable-Baselines3 (ppo, a2c, dqn, sac, ...), got {name!r}",
    )


def agent_class(name: str) -> type[BaseAlgorithm]:
    """The algorithm of an agent, given by its name or file.

    Raises:
        ArgumentError: for an unknown name.
    """
    return agent_kind(name).algorithm


def resolve_agent(options: TrainOptions) -> TrainOptions:
    """The options with the observation and the actions that the agent needs.

    Raises:
        ArgumentError: for a file that is not an agent's, or values that contradict it.
    """
    path = agent_path(options.agent)
    # One that is typed may be the environment's default.
    is_named = "observation" in options.given or options.env.observation != EnvConfig.observation
    if path is None:
        if options.agent_learns:
            raise ArgumentError(
                "agent_learns",
                f"is for the file of a pre-trained agent, got {named('agent')} {options.agent}",
            )
        kind = AGENTS.get(options.agent)
        if kind is None or kind.observation is None or is_named:
            return options
        return replace(options, env=replace(options.env, observation=kind.observation))
    card = read_card(path)
    if is_named and options.env.observation != card.observation:
        raise _not_of_card("observation", options, card.observation, options.env.observation)
    if options.actions not in (TrainOptions.actions, card.actions):
        raise _not_of_card("actions", options, card.actions, options.actions)
    for name, given in options.of_agent.items():
        if given not in (TrainOptions().of_agent[name], card.of_agent[name]):
            raise _not_of_card(name, options, card.of_agent[name], given)
    env = replace(options.env, observation=card.observation)
    return replace(options, actions=card.actions, env=env, **card.of_agent)


def _not_of_card(name: str, options: TrainOptions, needed: object, given: object) -> ArgumentError:
    return ArgumentError(name, f"must be that of {options.agent}, {needed}, got {given}")


def make_agent(
    options: TrainOptions,
    env: ViTPatchSelectEnv,
    vec_env: gym.Env[Any, Any] | VecEnv | None = None,
) -> BaseAlgorithm:
    """The agent of the options, on the CPU, with the options' seed.

    Args:
        options: of the run, as `resolve_agent` leaves them.
        env: that determines the run's sizes.
        vec_env: environments that the agent acts in, or one with its wrappers; None for `env`.

    Raises:
        ValueError: for an unknown agent, one that does not take the actions, or a value
            that does not belong to it.
    """
    described = _described(options, env)
    agent = _new_agent(described, env, vec_env)
    path = agent_path(options.agent)
    if path is None:
        return agent
    try:
        parameters = read_parameters(path)
        for part, state in parameters.items():
            optimizer = attrgetter(part)(agent)
            if isinstance(optimizer, Optimizer):
                check_optimizer_state(optimizer, state)
        agent.set_parameters(parameters, device="cpu")
    except MemoryError:
        raise
    except Exception as error:  # networks and optimizers raise anything for others' states
        reason = str(error).split("\n")[0]
        raise InputError(f"{named('agent')} {options.agent} cannot be loaded: {reason}") from error
    if isinstance(agent, PatchBandit | ScheduleBandit):
        agent.learning = options.agent_learns
        return agent
    return agent if options.agent_learns else Frozen(agent)


def check_agent(options: TrainOptions, env: ViTPatchSelectEnv) -> None:
    """Check everything that `make_agent` refuses whatever the images are, without loading them.

    Args:
        options: of the run, as `resolve_agent` leaves them.
        env: that determines the run's sizes.

    Raises:
        ValueError: as `make_agent`.
    """
    described = _described(options, env)
    with warnings.catch_warnings():  # the agent that acts will give them
        warnings.simplefilter("ignore")
        _new_agent(described, before_images(env), ACTIONS[options.actions](env))


def _described(options: TrainOptions, env: ViTPatchSelectEnv) -> TrainOptions:
    """The options with the agent's name and values from its file, if it is one."""
    path = agent_path(options.agent)
    if path is None:
        return options
    card = read_card(path)
    grid = env.grid
    if card.grid not in (grid, None) and not agent_kind(card.agent).on_any_grid:
        raise ArgumentError(
            "agent",
            f"must pick among the run's {_patches(grid)}, got {options.agent}, which picks among "
            f"{_patches(card.grid)}: pretrain one for this grid, or choose pretrained, a schedule "
            "or a bandit's file, which work in shares of the patches",
        )
    return replace(options, agent=card.agent, **card.of_agent)


def make_card(
    options: TrainOptions, env: ViTPatchSelectEnv, provenance: dict[str, Any] | None = None
) -> AgentCard:
    """The card of an agent that `make_agent` made of these options, for its file."""
    return AgentCard(
        agent=options.agent,
        grid=None if agent_kind(options.agent).on_any_grid else env.grid,
        observation=options.env.observation,
        actions=options.actions,
        **options.of_agent,
        provenance=provenance or {},
    )


def _patches(grid: tuple[int, int] | None) -> str:
    """A grid in words: "64 patches (8 x 8)"."""
    assert grid is not None
    rows, columns = grid
    return f"{counted(rows * columns, 'patch')} ({rows} x {columns})"


def _new_agent(
    options: TrainOptions,
    env: ViTPatchSelectEnv,
    training_env: gym.Env[Any, Any] | VecEnv | None,
) -> BaseAlgorithm:
    """An untrained agent."""
    kind = agent_kind(options.agent)
    for name in _OPTIONS_OF_SOME:
        if getattr(options, name) != getattr(TrainOptions(), name) and name not in kind.options:
            owners = [owner for owner, one in AGENTS.items() if name in one.options]
            owner = ", ".join(owners) or "algorithms of Stable-Baselines3"
            raise ArgumentError(name, f"belongs to {owner}, got {named('agent')} {options.agent}")
    if "sb3" not in kind.options and options.actions != "mask":
        raise ArgumentError(
            "actions", f"must be mask for {named('agent')} {options.agent}, got {options.actions}"
        )
    if training_env is None:
        training_env = ACTIONS[options.actions](env)
    try:
        return kind.make(Request(options, env, training_env))
    except MemoryError as error:
        raise _too_large(options, kind, error) from error


def _too_large(options: TrainOptions, kind: AgentKind, error: MemoryError) -> ArgumentError:
    """The error for an agent whose buffer, say, does not fit into memory."""
    if "sb3" in kind.options:
        return ArgumentError(
            "sb3",
            f"must be values with which {options.agent} fits into memory, "
            f"got {' '.join(options.sb3) or 'none'}: {error}",
        )
    if "dqn" in kind.options:
        size = options.dqn.buffer_size
        return ArgumentError("dqn.buffer_size", f"must fit into memory, got {size}: {error}")
    return ArgumentError("agent", f"must fit into memory, got {options.agent}: {error}")
