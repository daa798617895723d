"""Agents by name: the paper's and its branching variant, fixed rules, Stable-Baselines3's."""

import ast
import inspect
from dataclasses import asdict
from typing import Any

import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents import FixedRule, MultiOutputDQN
from experiments.options import DQNOptions, TrainOptions
from vit_patch_env import ViTPatchSelectEnv

POLICIES = {"paper": "MlpPolicy", "branching": "BranchingMlpPolicy"}


def agent_class(name: str) -> type[BaseAlgorithm]:
    """The algorithm that an agent's name stands for.

    Raises:
        ValueError: for an unknown name.
    """
    if name in POLICIES:
        return MultiOutputDQN
    if name in FixedRule.policy_aliases:
        return FixedRule
    algorithm = getattr(stable_baselines3, name.upper(), None)
    if not (inspect.isclass(algorithm) and issubclass(algorithm, BaseAlgorithm)):
        known = ", ".join((*POLICIES, *FixedRule.policy_aliases))
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
    shared: dict[str, Any] = {"seed": options.seed, "device": "cpu"}
    if algorithm is MultiOutputDQN:
        return MultiOutputDQN(POLICIES[name], env, **asdict(options.dqn), **shared)
    if algorithm is FixedRule:
        if env.n_patches_desired is None and name != "all":
            raise ValueError(f"agent {name} needs n_patches_desired, the number to keep, got None")
        return FixedRule(name, env, n_keep=env.n_patches_desired, **shared)
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
