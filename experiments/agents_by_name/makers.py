"""Functions that construct each kind of agent."""

import ast
import inspect
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import FixedRule, MultiOutputDQN, PatchBandit, ScheduledCount
from vit_patch_env.agents.multi_output_dqn.exploration import default_decay_steps
from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.run_folder.folder import RunFolder

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


Maker = Callable[[Request], BaseAlgorithm]


def make_dqn(policy: str, request: Request) -> BaseAlgorithm:
    """The paper's agent with one of its policies."""
    values = asdict(request.options.dqn)
    if values["exploration_decay_steps"] is None and request.options.env.budget != "epochs":
        # The algorithm does not know the number of steps, which `learn` only bounds.
        values["exploration_decay_steps"] = default_decay_steps(request.env.expected_steps)
    return MultiOutputDQN(policy, request.training_env, **values, **request.shared)


def make_bandit(request: Request) -> BaseAlgorithm:
    """The bandit."""
    keywords = request.options.bandit.keywords()
    return PatchBandit("BanditPolicy", request.training_env, **keywords, **request.shared)


def make_rule(name: str, request: Request) -> BaseAlgorithm:
    """A fixed rule that keeps the desired number of patches."""
    n_keep = request.env.config.n_patches_desired
    if n_keep is None and name != "all":
        raise ArgumentError(
            "agent", f"{name} needs n_patches_desired, the number to keep, got None"
        )
    return FixedRule(name, request.training_env, n_keep=n_keep, **request.shared)


def make_schedule(name: str, request: Request) -> BaseAlgorithm:
    """Random patches, with their number from a schedule."""
    count = ScheduledCount(name, request.env.n_patches, request.env.epochs)
    rule = RULE_BY_SAMPLING[request.options.sampling]
    return FixedRule(rule, request.training_env, n_keep=count, **request.shared)


def make_matched(request: Request) -> BaseAlgorithm:
    """Random patches, as many in each step as in another run."""
    options, n_steps = request.options, request.env.expected_steps
    if options.follow is None:
        raise ArgumentError(
            "follow",
            "must be a run if and only if agent is matched, "
            f"got agent {options.agent} and follow {options.follow}",
        )
    counts = RunFolder(options.follow).read_steps()
    if len(counts) != n_steps:
        raise ArgumentError(
            "follow", f"must be a run of {n_steps} steps, got {options.follow} of {len(counts)}"
        )
    rule = RULE_BY_SAMPLING[options.sampling]
    return FixedRule(rule, request.training_env, n_keep=counts, **request.shared)


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
