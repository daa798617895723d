"""The variants of the environment, and Gymnasium's own checks of one of them.

tests/test_gymnasium_checks.py checks a part of the variants, and all for `make clients`.
"""

import itertools
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, get_args

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.utils.passive_env_checker import (
    env_render_passive_checker,
    env_reset_passive_checker,
    env_step_passive_checker,
)

import vit_patch_env
from vit_patch_env import CountAction, TopKAction
from vit_patch_env.names import BudgetEndName, BudgetName, ObservationName, RewardName

TINY: dict[str, Any] = {
    "dataset": "synthetic", "dim": 8, "depth": 1, "heads": 1, "dim_head": 4, "mlp_dim": 8,
    "image_size": 16, "patch_size": 8, "batch_size": 128, "epochs": 1, "device": "cpu",
    "precision": "fp32", "reward_every": 2, "seconds": 60.0,
}  # fmt: skip
"""A ViT of 4 patches, whose episode has 4 steps if all are kept."""

N_STEPS = 6
"""An episode of most variants is shorter; one of a minute is not waited for."""

WRAPPERS: dict[str, Callable[[gym.Env], gym.Env]] = {
    "mask": lambda env: env,
    "top_k": TopKAction,
    "count": CountAction,
    "count_spread": lambda env: CountAction(env, counts=(1, 3), sampling="spread"),
    "count_attended": lambda env: CountAction(env, sampling="attended"),
}
"""What an agent's actions go through."""


class Variant(NamedTuple):
    """What the environment shows and rewards, what ends it, and what acts on it."""

    observation: str
    reward: str
    budget: str
    budget_end: str
    wrapper: str

    def __str__(self) -> str:
        return "-".join(self)

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of `gym.make`."""
        given = {name: value for name, value in self._asdict().items() if name != "wrapper"}
        timed = {} if self.budget == "seconds" else {"seconds": None}
        model = "vit" if self.observation.startswith("class_attention") else "simple_vit"
        return TINY | given | timed | {"model": model}

    def make(self, **more: Any) -> gym.Env:
        """An environment with its wrapper."""
        return WRAPPERS[self.wrapper](gym.make(vit_patch_env.ENV_ID, **self.arguments, **more))


VALUES = [*map(get_args, (ObservationName, RewardName, BudgetName, BudgetEndName)), tuple(WRAPPERS)]

VARIANTS = [Variant(*values) for values in itertools.product(*VALUES)]


def crossed() -> list[Variant]:
    """Every combination of observation, reward, budget and wrapper; the two ends in turns."""
    ends = itertools.cycle(get_args(BudgetEndName))
    combinations = dict.fromkeys(variant._replace(budget_end="truncated") for variant in VARIANTS)
    # Five wrappers: so each of them is tried with both ends.
    return [variant._replace(budget_end=next(ends)) for variant in combinations]


def pairwise() -> list[Variant]:
    """Few variants, in which every two values of two arguments occur together."""
    pairs = {
        variant: frozenset(itertools.combinations(enumerate(variant), 2)) for variant in VARIANTS
    }
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        chosen.append(max(VARIANTS, key=lambda variant: len(missing & pairs[variant])))
        missing -= pairs[chosen[-1]]
    return chosen


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Without the warnings that are meant for users of unusual variants."""
    with warnings.catch_warnings():
        for message in (
            "reward .* depends on the time and the loss",  # all pairs are tried here
            ".*is different from the unwrapped version",  # so are the wrappers
            r".*A Box observation space (minimum|maximum) value is -?infinity",
        ):
            warnings.filterwarnings("ignore", message)
        yield


def passes_the_checker(variant: Variant) -> None:
    """`check_env`: spaces, seeds, options, determinism, data that are not reused, rendering."""
    env = variant.make()
    check_env(env.unwrapped if variant.wrapper == "mask" else env)


def is_deterministic(variant: Variant) -> None:
    """Two environments give the same, to the last bit, and every step passes the passive checker.

    As in Gymnasium, environments whose spec says nondeterministic are only checked passively.
    """
    env, other = variant.make(render_mode="rgb_array"), variant.make()
    first = env_reset_passive_checker(env, seed=3)
    again = other.reset(seed=3)
    env.action_space.seed(3)
    _same(variant, first, again)
    for _ in range(N_STEPS):
        action = env.action_space.sample()
        first, again = env_step_passive_checker(env, action), other.step(action)
        _same(variant, first, again)
        if first[2] or first[3]:
            break
    assert (first[2] or first[3]) == (
        variant.budget == "epochs" or env.unwrapped.episode.run.progress >= 1
    )
    env_render_passive_checker(env)


def has_a_spec(variant: Variant) -> None:
    """Its spec goes to JSON and back, pickles, and makes the same environment."""
    env = variant.make()
    spec = EnvSpec.from_json(env.spec.to_json())
    assert spec == pickle.loads(pickle.dumps(env.spec)) == env.spec
    assert spec.nondeterministic == (variant.budget == "seconds")
    again = gym.make(spec)
    assert again.spec == env.spec
    assert (again.observation_space, again.action_space) == (
        env.observation_space,
        env.action_space,
    )
    _continue_the_same(variant, env, again, seed=1)


def pickles(variant: Variant) -> None:
    """A copy in the middle of an episode continues it, and both start the same next one."""
    env = variant.make()
    env.reset(seed=2)
    env.step(env.action_space.sample())
    copy = cloudpickle.loads(cloudpickle.dumps(env))
    action = env.action_space.sample()
    _same(variant, env.step(action), copy.step(action))
    _continue_the_same(variant, env, copy, seed=None)


def is_the_same_in_a_vector(variant: Variant) -> None:
    """In a vector environment, each gives what it gives alone."""
    vector = gym.vector.SyncVectorEnv([variant.make] * 2)
    observed, _ = vector.reset(seed=[5, 6])
    vector.action_space.seed(5)
    actions = vector.action_space.sample()
    after, rewards, *_ = vector.step(actions)
    env = variant.make()
    for index, seed in enumerate((5, 6)):
        _same(variant, observed[index], env.reset(seed=seed)[0])
        _same(variant, (after[index], float(rewards[index])), env.step(actions[index])[:2])


def _continue_the_same(variant: Variant, env: gym.Env, other: gym.Env, seed: int | None) -> None:
    _same(variant, env.reset(seed=seed), other.reset(seed=seed))
    action = env.action_space.sample()
    _same(variant, env.step(action), other.step(action))


def _same(variant: Variant, one: Any, other: Any) -> None:
    if variant.budget == "seconds":  # the clock changes learning rates, and so all later values
        one, other = _without_time(one), _without_time(other)
    assert data_equivalence(one, other, exact=True), (one, other)


def _without_time(data: Any) -> Any:
    """What does not depend on the clock: types, shapes, and what was selected."""
    if isinstance(data, dict):
        return {
            key: value if key in ("n_selected", "empty_action") else _without_time(value)
            for key, value in data.items()
        }
    if isinstance(data, tuple | list):
        return tuple(map(_without_time, data))
    return (type(data).__name__, *np.shape(data))


CHECKS = (
    passes_the_checker, is_deterministic, has_a_spec, pickles, is_the_same_in_a_vector,
)  # fmt: skip
