"""The environment of a run, and the evaluation of its ViT."""

from dataclasses import asdict
from typing import Any, cast

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm

from vit_patch_env import ENV_ID, CountAction, Episode, Selector, ViTPatchSelectEnv
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.factory import ACTIONS
from vit_patch_env.experiments.options.commands import ActionsName


def make_env(config: EnvConfig) -> ViTPatchSelectEnv:
    """The environment with these arguments.

    Raises:
        ValueError: as `ViTPatchSelectEnv`.
    """
    return cast("ViTPatchSelectEnv", gym.make(ENV_ID, **asdict(config)).unwrapped)


def evaluate_on_test(
    env: ViTPatchSelectEnv, episode: Episode, agent: BaseAlgorithm, actions: ActionsName
) -> dict[str, Any]:
    """Test metrics of an episode's ViT, on all patches and on the agent's."""
    selector = cast("Selector", agent)
    if actions != "mask":
        wrapper = cast("gym.ActionWrapper[Any, Any, Any]", ACTIONS[actions](env))
        selector = _WrappedSelector(selector, wrapper)
    return {
        "all_patches": episode.evaluate("test")._asdict(),
        "agent_patches": episode.evaluate("test", selector)._asdict(),
    }


def run_length(env: ViTPatchSelectEnv) -> str:
    """The length of a run, in words."""
    epochs = f"{env.epochs} epochs of {env.steps_per_epoch} steps"
    return {
        "epochs": epochs,
        "flops": f"the FLOPs of {epochs} on all patches",
        "seconds": f"{env.config.seconds} s",
    }[env.config.budget]


class _WrappedSelector:
    """A selector whose actions a wrapper turns into patch masks."""

    def __init__(self, selector: Selector, wrapper: "gym.ActionWrapper[Any, Any, Any]") -> None:
        self.selector = selector
        self.wrapper = wrapper
        if isinstance(wrapper, CountAction):
            wrapper.seed_sampling(0)  # so that the evaluation is reproducible

    def predict(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Patch mask and state."""
        action, state = self.selector.predict(*args, **kwargs)
        return self.wrapper.action(action), state
