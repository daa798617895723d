"""The layers between an agent and the environment: Gymnasium's wrappers and vectorised ones."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym

from vit_patch_env.checks import ArgumentError

_TRANSPARENT = {
    "gymnasium.wrappers": {
        "Autoreset", "HumanRendering", "NormalizeReward", "OrderEnforcing", "PassiveEnvChecker",
        "RecordEpisodeStatistics", "RecordVideo", "RenderCollection", "TimeLimit",
    },
    "stable_baselines3.common": {"Monitor", "VecCheckNan", "VecMonitor", "VecVideoRecorder"},
    "vit_patch_env.wrappers": {"NumPyInfo"},
}  # fmt: skip
"""Wrappers that change neither observations nor actions, by the package that they are in."""

_SAME_NUMBERS = ("DtypeObservation", "FlattenObservation")
"""Wrappers of Gymnasium that leave the numbers of an observation (n,) as they are."""

_CHANGES_OBSERVATIONS = ("FrameStackObservation", "TimeFeatureWrapper", "VecFrameStack")
"""Wrappers whose classes do not tell that they change observations."""


def layers_below(env: Any) -> Iterator[Any]:
    """Yield an environment's or vectorised environment's layers, from the outside in.

    The last one is the environment, or the vectorised environment that has no wrappers. The
    wrappers of each of several environments in this process follow it.
    """
    while True:
        yield env
        inner = vars(env).get("venv" if hasattr(env, "step_wait") else "env")
        if inner is None:
            break
        env = inner
    envs = vars(env).get("envs")
    for one in envs if isinstance(envs, list) else []:
        yield from layers_below(one)


def is_transparent(layer: Any) -> bool:
    """Whether a wrapper is known to pass on observations and actions unchanged."""
    kind = type(layer)
    if any(
        kind.__module__.startswith(package) and kind.__name__ in names
        for package, names in _TRANSPARENT.items()
    ):
        return True
    if not isinstance(layer, gym.Wrapper) or hasattr(kind, "action_masks"):
        return False
    passes_on = (gym.Wrapper.step, gym.RewardWrapper.step)
    return kind.reset is gym.Wrapper.reset and kind.step in passes_on


def check_selector(selector: Any) -> None:
    """Refuse an agent that learned through wrappers, where its observations come without them.

    Raises:
        ArgumentError: naming the wrapper.
    """
    get_env = getattr(selector, "get_env", None)
    env = get_env() if callable(get_env) else None
    for layer in layers_below(env) if env is not None else ():
        if _changes_what_agents_see(layer):
            raise ArgumentError(
                "selector",
                "must be an agent without wrappers between it and the environment (otherwise use "
                "vit_patch_env.evaluate_agent(agent, env, split)), "
                f"got one with {type(layer).__name__}",
            )


def _changes_what_agents_see(layer: Any) -> bool:
    names = {kind.__name__ for kind in type(layer).__mro__}
    if "VecNormalize" in names:
        return bool(layer.norm_obs)
    if isinstance(layer, gym.ObservationWrapper):
        return type(layer).__name__ not in _SAME_NUMBERS
    return isinstance(layer, gym.ActionWrapper) or not names.isdisjoint(_CHANGES_OBSERVATIONS)
