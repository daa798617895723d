"""Agents by name: the paper's and its branching variant, fixed rules, Stable-Baselines3's."""

import ast
import inspect
from dataclasses import asdict
from typing import Any

import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents import SCHEDULES, FixedRule, MultiOutputDQN
from experiments.options import DQNOptions, TrainOptions
from experiments.run_folder import RunFolder
from vit_patch_env import ViTPatchSelectEnv

POLICIES = {"paper": "MlpPolicy", "branching": "BranchingMlpPolicy"}
RULES = (*FixedRule.policy_aliases, *SCHEDULES, "matched")


def agent_class(name: str) -> type[BaseAlgorithm]:
    """The algorithm that an agent's name stands for.

    Raises:
        ValueError: for an unknown name.
    """
    if name in POLICIES:
        return MultiOutputDQN
    if name in RULES:
        return FixedRule
    algorithm = getattr(stable_baselines3, name.upper(), None)
    if not (inspect.isclass(algorithm) and issubclass(algorithm, BaseAlgorithm)):
        known = ", ".join((*POLICIES, *RULES))
        raise ValueError(
            f"agent must be one of {known} or a Stable-Baselines3 algorithm that takes "
            f"MultiBinary actions (ppo, a2c), got {name!r}"
        )
    return algorithm


def make_agent(options: TrainOptions, env: ViTPatchSelectEnv) -> BaseAlgorithm:
    """The agent that the options ask for, on the CPU, with the options' seed.

    Raises:
        ValueError: for an unknown agent, one that does not take MultiBinary actions, or a value
            that does not belong to it.
    """
    name = options.agent
    algorithm = agent_class(name)
    if name not in POLICIES and options.dqn != DQNOptions():
        raise ValueError(f"--dqn values belong to {' and '.join(POLICIES)}, got agent {name}")
    if algorithm in (MultiOutputDQN, FixedRule) and options.sb3:
        raise ValueError(f"--sb3 values belong to a Stable-Baselines3 algorithm, got agent {name}")
    if (options.follow is None) == (name == "matched"):
        raise ValueError(
            f"follow must name a run where agent is matched, and only there, "
            f"got agent {name} and follow {options.follow}"
        )
    shared: dict[str, Any] = {"seed": options.seed, "device": "cpu"}
    if algorithm is MultiOutputDQN:
        return MultiOutputDQN(POLICIES[name], env, **asdict(options.dqn), **shared)
    if algorithm is FixedRule:
        rule = name if name in FixedRule.policy_aliases else "random"
        return FixedRule(rule, env, n_keep=_n_keep(options, env), **shared)
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
        given = {**_rollout_defaults(algorithm, env.n_steps), **given}
    try:
        return algorithm("MlpPolicy", env, **shared | given)
    except (AssertionError, TypeError) as error:
        if "action spaces" in str(error):
            raise ValueError(f"agent must take MultiBinary actions, got {name}: {error}") from error
        raise ValueError(f"--sb3 values are refused by {name}: {error}") from error


def _n_keep(options: TrainOptions, env: ViTPatchSelectEnv) -> int | list[int] | None:
    """The number of patches that a rule keeps, or one for each step."""
    if options.follow is not None:
        counts = RunFolder(options.follow).read_steps()
        if len(counts) != env.n_steps:
            raise ValueError(
                f"follow must be a run of {env.n_steps} steps, "
                f"got {options.follow} of {len(counts)}"
            )
        return counts
    if options.agent in SCHEDULES:
        return SCHEDULES[options.agent](env.n_patches, env.n_steps, env.steps_per_epoch)
    if env.n_patches_desired is None and options.agent != "all":
        raise ValueError(
            f"agent {options.agent} needs n_patches_desired, the number to keep, got None"
        )
    return env.n_patches_desired


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
