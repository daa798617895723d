"""This package's agents as algorithms of rl_zoo3, with what its optimiser searches."""

from collections.abc import Callable
from typing import Any, NamedTuple

from optuna.trial import BaseTrial
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm

from vit_patch_env.agents import (
    RULES,
    BanditOptions,
    DQNOptions,
    FixedRule,
    MultiOutputDQN,
    PatchBandit,
)
from vit_patch_env.arguments import Argument, Search, declared

Values = dict[str, Any]


class ZooAlgorithm(NamedTuple):
    """An agent as rl_zoo3 needs it.

    Attributes:
        algorithm: its class.
        suggest: the values that a trial of Optuna tries.
        convert: the arguments of the class for these values.
    """

    algorithm: type[BaseAlgorithm]
    suggest: Callable[[BaseTrial], Values]
    convert: Callable[[Values], Values]

    def sample(self, trial: BaseTrial, *_: Any) -> Values:
        """The arguments to try: a sampler of rl_zoo3, which passes facts about the environment."""
        return self.convert(self.suggest(trial))


def register() -> None:
    """Add this package's agents to rl_zoo3's algorithms, before it reads its arguments."""
    samplers: dict[str, Any] = HYPERPARAMS_SAMPLER
    converters: dict[str, Any] = HYPERPARAMS_CONVERTER
    for name, one in ZOO_ALGORITHMS.items():
        ALGOS[name] = one.algorithm
        samplers[name] = one.sample
        converters[name] = one.convert


def _suggest_declared(kind: Any) -> Callable[[BaseTrial], Values]:
    """Suggests what `vit-patch tune` searches too, except numbers of steps.

    Their ranges are shares of a run, whose length rl_zoo3 does not tell.
    """
    searched = [(one, one.search) for one in declared(kind) if one.search is not None]

    def suggest(trial: BaseTrial) -> Values:
        return {
            one.name: _suggest(trial, one, search) for one, search in searched if search.of is None
        }

    return suggest


def _suggest(trial: BaseTrial, argument: Argument, search: Search) -> Any:
    """A value of an argument in its range."""
    name = argument.name
    if argument.choices:
        return trial.suggest_categorical(name, argument.choices)
    if argument.is_integer:
        return trial.suggest_int(name, int(search.low), int(search.high), log=search.log)
    return trial.suggest_float(name, search.low, search.high, log=search.log)


def _suggest_rule(trial: BaseTrial) -> Values:
    """Suggests the rule; the number of patches, which depends on the environment, is given."""
    return {"policy": trial.suggest_categorical("policy", list(RULES))}


def _bandit_arguments(values: Values) -> Values:
    return BanditOptions(**values).keywords()


ZOO_ALGORITHMS: dict[str, ZooAlgorithm] = {
    "multi_output_dqn": ZooAlgorithm(MultiOutputDQN, _suggest_declared(DQNOptions), dict),
    "patch_bandit": ZooAlgorithm(PatchBandit, _suggest_declared(BanditOptions), _bandit_arguments),
    "fixed_rule": ZooAlgorithm(FixedRule, _suggest_rule, dict),
}
"""Agents of this package by the names that `--algo` takes."""
