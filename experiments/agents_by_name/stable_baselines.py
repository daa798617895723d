"""Algorithms of Stable-Baselines3 and sb3-contrib, by name and with values given as text."""

import ast
import inspect
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.agents_by_name.table import Request


def make_sb3(algorithm: type[BaseAlgorithm], name: str, request: Request) -> BaseAlgorithm:
    """An algorithm of Stable-Baselines3 or sb3-contrib."""
    given = _parse(request.options.sb3)
    known = [
        parameter
        for parameter in inspect.signature(algorithm).parameters
        if parameter not in ("policy", "env", "_init_setup_model")
    ]
    for value in given:
        if value not in known:
            raise ArgumentError(
                "sb3", f"must be values of {name} ({', '.join(known)}), got {value!r}"
            )
    if not {"n_steps", "batch_size"} & set(given):
        given = {**_rollout_defaults(algorithm, request.env.expected_steps), **given}
    training_env: Any = request.training_env
    try:
        return algorithm("MlpPolicy", training_env, **request.shared | given)
    except (AssertionError, TypeError) as error:
        if "action spaces" in str(error):
            raise ArgumentError(
                "agent",
                f"{name} does not take {training_env.action_space} as actions, got actions "
                f"{request.options.actions}: choose mask for MultiBinary (ppo, a2c), count "
                "(CountAction) for Discrete (dqn, qrdqn), top_k (TopKAction) for Box (sac, td3)",
            ) from error
        raise ArgumentError("sb3", f"values are refused by {name}, got: {error}") from error


def _rollout_defaults(algorithm: type[BaseAlgorithm], n_steps: int) -> dict[str, Any]:
    """Rollouts of a tenth of the run, if the algorithm's default is longer than that."""
    if not issubclass(algorithm, OnPolicyAlgorithm):
        return {}
    parameters = inspect.signature(algorithm).parameters
    if parameters["n_steps"].default <= n_steps // 10:
        return {}
    rollout = max(n_steps // 10, 2)
    return {"n_steps": rollout} | ({"batch_size": rollout} if "batch_size" in parameters else {})


def _parse(assignments: tuple[str, ...]) -> dict[str, Any]:
    """Python values of "name=value" texts; values that are not literals stay text."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise ArgumentError("sb3", f"must be given as name=value, got {assignment!r}")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values
