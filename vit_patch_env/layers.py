"""The layers between an agent and the environment: Gymnasium's wrappers and vectorised ones."""

from collections.abc import Iterator
from typing import Any

from vit_patch_env.checks import ArgumentError

_TRANSPARENT = {
    "gymnasium.wrappers": {
        "AddWhiteNoise", "Autoreset", "ClipReward", "HumanRendering", "NormalizeReward",
        "ObstructView", "OrderEnforcing", "PassiveEnvChecker", "RecordEpisodeStatistics",
        "RecordVideo", "RenderCollection", "TimeLimit", "TransformReward",
    },
    "stable_baselines3.common": {"Monitor", "VecCheckNan", "VecMonitor", "VecVideoRecorder"},
    "vit_patch_env.wrappers": {"NumPyInfo"},
}  # fmt: skip
"""Wrappers that change neither observations nor actions, by the package that they are in."""


def layers_below(env: Any) -> Iterator[Any]:
    """Yield an environment's or vectorised environment's layers, from the outside in.

    The last one is the environment, or the vectorised environment that has no wrappers. The
    layers of each of several environments in this process follow it.
    """
    while True:
        yield env
        inner = _beneath(env)
        if inner is None:
            break
        env = inner
    for one in places(env) or ():
        yield from layers_below(one)


def places(vec_env: Any) -> list[Any] | None:
    """The environments of a vectorised one without wrappers; None if they are not here."""
    envs = vars(vec_env).get("envs")
    return envs if isinstance(envs, list) else None


def is_transparent(layer: Any) -> bool:
    """Whether a layer is known to pass on observations and actions unchanged.

    Only wrappers of libraries are. An environment is too, and a vectorised one whose environments
    can be seen, as they are not in other processes.
    """
    kind = type(layer)
    if kind.__name__ == "VecNormalize" and kind.__module__.startswith("stable_baselines3.common"):
        return not layer.norm_obs
    if _beneath(layer) is None:
        return not is_vectorised(layer) or places(layer) is not None
    return any(
        kind.__module__.startswith(package) and kind.__name__ in names
        for package, names in _TRANSPARENT.items()
    )


def is_vectorised(layer: Any) -> bool:
    """Whether a layer is a vectorised environment of Stable-Baselines3, or wraps one."""
    return hasattr(layer, "step_wait")


def check_selector(selector: Any) -> None:
    """Refuse an agent that may have learned through wrappers, which its observations bypass here.

    Raises:
        ArgumentError: naming the wrapper, or the vectorised environment that hides some.
    """
    get_env = getattr(selector, "get_env", None)
    env = get_env() if callable(get_env) else None
    for layer in layers_below(env) if env is not None else ():
        if not is_transparent(layer):
            raise ArgumentError(
                "selector",
                "must be an agent without wrappers between it and the environment (otherwise use "
                "vit_patch_env.evaluate_agent(agent, env, split)), "
                f"got one with {type(layer).__name__}",
            )


def _beneath(layer: Any) -> Any:
    """What a wrapper wraps; None if it is no wrapper."""
    return vars(layer).get("venv" if is_vectorised(layer) else "env")
