"""Agents by name: the paper's and its variants, the bandit, fixed rules, Stable-Baselines3's."""

import ast
import inspect
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import gymnasium as gym
import sb3_contrib
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from vit_patch_env import CountAction, TopKAction, ViTPatchSelectEnv
from vit_patch_env.agents import (
    SCHEDULES,
    FixedRule,
    Frozen,
    MultiOutputDQN,
    PatchBandit,
    ScheduledCount,
)
from vit_patch_env.agents.multi_output_dqn.exploration import default_decay_steps
from vit_patch_env.checks import check_choice
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.agent_file import agent_path, read_card
from vit_patch_env.experiments.options.commands import DQNOptions, TrainOptions
from vit_patch_env.experiments.runs.folder import RunFolder

POLICIES = {"paper": "MlpPolicy", "branching": "BranchingMlpPolicy"}
RULES = (*FixedRule.policy_aliases, *SCHEDULES, "matched")
DRAWN_BY = {"uniform": "random", "spread": "spread"}
ACTIONS: dict[str, Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]] = {
    "mask": lambda env: env,
    "count": CountAction,
    "top_k": TopKAction,
}


def agent_class(name: str) -> type[BaseAlgorithm]:
    """The algorithm that an agent's name stands for.

    Raises:
        ValueError: for an unknown name.
    """
    path = agent_path(name)
    if path is not None:
        name = read_card(path).agent
    if name in POLICIES:
        return MultiOutputDQN
    if name in RULES:
        return FixedRule
    if name == "bandit":
        return PatchBandit
    for library in (stable_baselines3, sb3_contrib):
        algorithm = getattr(library, name.upper(), None)
        if inspect.isclass(algorithm) and issubclass(algorithm, BaseAlgorithm):
            return algorithm
    known = ", ".join((*POLICIES, "bandit", "pretrained", *RULES))
    raise ValueError(
        f"agent must be one of {known}, the file of a pre-trained one, or an algorithm of "
        f"Stable-Baselines3 (ppo, a2c, dqn, sac, ...), got {name!r}"
    )


def resolve_agent(options: TrainOptions) -> TrainOptions:
    """The options with the observation and the actions that the agent needs.

    Raises:
        ValueError: for a file that is none, or values that contradict it.
    """
    path = agent_path(options.agent)
    if path is None:
        if options.agent_learns:
            raise ValueError(
                f"agent_learns is for the file of a pre-trained agent, got agent {options.agent}"
            )
        looks = options.env.observation != EnvConfig().observation
        if options.agent != "bandit" or looks:
            return options
        return replace(options, env=replace(options.env, observation="none+run"))
    card = read_card(path)
    for name, given, usual, needed in (
        ("observation", options.env.observation, EnvConfig().observation, card.observation),
        ("actions", options.actions, TrainOptions().actions, card.actions),
    ):
        if given not in (usual, needed):
            raise ValueError(f"{name} must be that of {options.agent}, {needed}, got {given}")
    env = replace(options.env, observation=card.observation)
    return replace(options, actions=card.actions, env=env)


def make_agent(
    options: TrainOptions, env: ViTPatchSelectEnv, vec_env: VecEnv | None = None
) -> BaseAlgorithm:
    """The agent that the options ask for, on the CPU, with the options' seed.

    Args:
        options: of the run, as `resolve_agent` leaves them.
        env: that tells the run's sizes.
        vec_env: what the agent acts in, if not in `env`.

    Raises:
        ValueError: for an unknown agent, one that does not take the actions, or a value
            that does not belong to it.
    """
    path = agent_path(options.agent)
    if path is None:
        return _new_agent(options, env, vec_env)
    card = read_card(path)
    if card.n_patches != env.n_patches:
        raise ValueError(
            f"agent {options.agent} picks among {card.n_patches} patches, "
            f"expected the run's {env.n_patches}"
        )
    named = replace(options, agent=card.agent, sb3=card.sb3, dqn=card.dqn)
    agent = _new_agent(named, env, vec_env)
    try:
        agent.set_parameters(str(path), device="cpu")
    except (RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"agent {options.agent} cannot be loaded: {reason}") from error
    if isinstance(agent, PatchBandit):
        agent.learning = options.agent_learns
        return agent
    return agent if options.agent_learns else Frozen(agent)


def _new_agent(
    options: TrainOptions, env: ViTPatchSelectEnv, vec_env: VecEnv | None
) -> BaseAlgorithm:
    """An agent that has learned nothing yet."""
    name = options.agent
    algorithm = agent_class(name)
    if name not in POLICIES and options.dqn != DQNOptions():
        raise ValueError(f"--dqn values belong to {' and '.join(POLICIES)}, got agent {name}")
    if name in (*POLICIES, *RULES) and options.sb3:
        raise ValueError(f"--sb3 values belong to a Stable-Baselines3 algorithm, got agent {name}")
    check_choice(tuple(DRAWN_BY), draw=options.draw)
    if options.draw != "uniform" and name not in (*SCHEDULES, "matched"):
        raise ValueError(f"draw belongs to schedules and to matched, got agent {name}")
    if (options.follow is None) == (name == "matched"):
        raise ValueError(
            f"follow must name a run where agent is matched, and only there, "
            f"got agent {name} and follow {options.follow}"
        )
    shared: dict[str, Any] = {"seed": options.seed, "device": "cpu"}
    check_choice(tuple(ACTIONS), actions=options.actions)
    world = ACTIONS[options.actions](env) if vec_env is None else vec_env
    if algorithm in (MultiOutputDQN, FixedRule, PatchBandit) and options.actions != "mask":
        raise ValueError(f"actions must be mask for agent {name}, got {options.actions}")
    if algorithm is MultiOutputDQN:
        values = asdict(options.dqn)
        if values["exploration_decay_steps"] is None and options.env.budget != "epochs":
            # How many steps there will be, the algorithm cannot know from how long it may learn.
            values["exploration_decay_steps"] = default_decay_steps(env.expected_steps)
        return MultiOutputDQN(POLICIES[name], world, **values, **shared)
    if algorithm is FixedRule:
        rule = name if name in FixedRule.policy_aliases else DRAWN_BY[options.draw]
        return FixedRule(rule, world, n_keep=_n_keep(options, env), **shared)
    given = _parse(options.sb3)
    known = [
        parameter
        for parameter in inspect.signature(algorithm).parameters
        if parameter not in ("policy", "env", "_init_setup_model")
    ]
    for value in given:
        if value not in known:
            raise ValueError(f"--sb3 must be values of {name} ({', '.join(known)}), got {value!r}")
    if not {"n_steps", "batch_size"} & set(given):
        given = {**_rollout_defaults(algorithm, env.expected_steps), **given}
    policy = "BanditPolicy" if algorithm is PatchBandit else "MlpPolicy"
    try:
        return algorithm(policy, world, **shared | given)
    except (AssertionError, TypeError) as error:
        if "action spaces" in str(error):
            raise ValueError(
                f"agent {name} does not take {world.action_space} as actions, got actions "
                f"{options.actions}: choose mask for MultiBinary (ppo, a2c), count (CountAction) "
                "for Discrete (dqn, qrdqn), top_k (TopKAction) for Box (sac, td3)"
            ) from error
        raise ValueError(f"--sb3 values are refused by {name}: {error}") from error


def _n_keep(
    options: TrainOptions, env: ViTPatchSelectEnv
) -> int | list[int] | ScheduledCount | None:
    """The number of patches that a rule keeps, one for each step, or as a function of progress."""
    if options.follow is not None:
        counts = RunFolder(options.follow).read_steps()
        if len(counts) != env.expected_steps:
            raise ValueError(
                f"follow must be a run of {env.expected_steps} steps, "
                f"got {options.follow} of {len(counts)}"
            )
        return counts
    if options.agent in SCHEDULES:
        return ScheduledCount(options.agent, env.n_patches, env.epochs)
    if env.config.n_patches_desired is None and options.agent != "all":
        raise ValueError(
            f"agent {options.agent} needs n_patches_desired, the number to keep, got None"
        )
    return env.config.n_patches_desired


def _rollout_defaults(algorithm: type[BaseAlgorithm], n_steps: int) -> dict[str, Any]:
    """Rollouts of a tenth of the run, where the algorithm's own would be longer than that."""
    if not issubclass(algorithm, OnPolicyAlgorithm):
        return {}
    parameters = inspect.signature(algorithm).parameters
    if parameters["n_steps"].default <= n_steps // 10:
        return {}
    rollout = max(n_steps // 10, 2)
    return {"n_steps": rollout} | ({"batch_size": rollout} if "batch_size" in parameters else {})


def _parse(assignments: tuple[str, ...]) -> dict[str, Any]:
    """Python values of "name=value" texts; what is no literal stays text."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"--sb3 must be given as name=value, got {assignment!r}")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values
