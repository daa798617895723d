"""Algorithms of Stable-Baselines3 and sb3-contrib, by name and with values given as text."""

import ast
import inspect
from collections.abc import Iterable
from functools import cache
from typing import Any

import sb3_contrib
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from vit_patch_env.arguments import Search
from vit_patch_env.checks import ArgumentError, named
from vit_patch_env.experiments.agents_by_name.table import Request

SEARCHED: dict[str, Search] = {
    "learning_rate": Search(1e-5, 1e-2, log=True),
    "gamma": Search(0.5, 0.999),
    "gae_lambda": Search(0.5, 1.0),
    "ent_coef": Search(0.0, 0.1),
    "vf_coef": Search(0.1, 1.0),
    "clip_range": Search(0.1, 0.4),
    "tau": Search(0.005, 1.0, log=True),
    "exploration_fraction": Search(0.05, 0.8),
}
"""Values that `vit-patch tune` searches, of the algorithms that have numbers as their defaults."""


_WITHOUT_INFOS = (sb3_contrib.ARS,)
"""Algorithms that do not tell callbacks what the environment reports in a step."""


@cache
def algorithms() -> dict[str, type[BaseAlgorithm]]:
    """The algorithms of Stable-Baselines3 and sb3-contrib, by their names in lower case."""
    return {
        name.lower(): one
        for library in (sb3_contrib, stable_baselines3)
        for name, one in vars(library).items()
        if inspect.isclass(one) and issubclass(one, BaseAlgorithm)
    }


def sb3_algorithm(name: str) -> type[BaseAlgorithm] | None:
    """The algorithm with this name, in any case; None if there is none.

    Raises:
        ArgumentError: for one whose training cannot be followed.
    """
    algorithm = algorithms().get(name.lower())
    if algorithm in _WITHOUT_INFOS:
        raise ArgumentError(
            "agent",
            "must be an algorithm that gives callbacks the infos of every step, as ppo and a2c do, "
            f"got {name}",
        )
    return algorithm


def searched_defaults(algorithm: type[BaseAlgorithm], texts: tuple[str, ...]) -> dict[str, float]:
    """The values of an algorithm that are searched, by name: the given ones or its defaults.

    Args:
        algorithm: that has them.
        texts: the given values, such as "gamma=0.9".

    Raises:
        ArgumentError: for a text of another form.
    """
    given = _parse(texts)
    values = {
        name: given.get(name, parameter.default)
        for name, parameter in inspect.signature(algorithm).parameters.items()
        if name in SEARCHED
    }
    return {name: float(one) for name, one in values.items() if isinstance(one, int | float)}


def given_names(texts: Iterable[str]) -> frozenset[str]:
    """The names in texts such as "gamma=0.9"."""
    return frozenset(text.partition("=")[0] for text in texts)


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
    if algorithm is sb3_contrib.RecurrentPPO and request.options.actions == "mask":
        raise ArgumentError(
            "actions", f"must be count for {name}, which fails with MultiBinary, got mask"
        )
    try:
        return algorithm(_policy(algorithm), training_env, **request.shared | given)
    except (AssertionError, OverflowError, TypeError, ValueError) as error:
        if "action spaces" in str(error):
            raise ArgumentError(
                "agent",
                f"{name} does not take {training_env.action_space} as actions, got "
                f"{named('actions')} {request.options.actions}: choose mask for MultiBinary (ppo, "
                "a2c), count (CountAction) for Discrete (dqn, qrdqn), top_k (TopKAction) for Box "
                "(sac, td3)",
            ) from error
        raise ArgumentError("sb3", f"values are refused by {name}, got: {error}") from error


def _policy(algorithm: type[BaseAlgorithm]) -> str:
    """The policy for observations that are vectors."""
    names = ("MlpPolicy", "MlpLstmPolicy")
    return next(name for name in names if name in algorithm.policy_aliases)


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
