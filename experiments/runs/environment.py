"""The environment of a run, and the evaluation of its ViT."""

from dataclasses import asdict
from typing import cast

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm

from vit_patch_env import ENV_ID, Selector, ViTPatchSelectEnv
from vit_patch_env.agent_evaluation import EpisodeName, predict_with_agent
from vit_patch_env.checks import counted
from vit_patch_env.config import EnvConfig
from vit_patch_env.config.data import LOADING
from vit_patch_env.data.splits import ImageData
from vit_patch_env.data.texts import TextData
from vit_patch_env.experiments.agents_by_name.factory import ACTIONS
from vit_patch_env.experiments.figures.numbers import Evaluations
from vit_patch_env.experiments.options.commands import ActionsName


def make_env(config: EnvConfig) -> ViTPatchSelectEnv:
    """The environment with these arguments.

    Raises:
        ValueError: as `ViTPatchSelectEnv`.
    """
    return cast("ViTPatchSelectEnv", gym.make(ENV_ID, **asdict(config)).unwrapped)


def make_env_on(items: ImageData | TextData, config: EnvConfig) -> ViTPatchSelectEnv:
    """The environment with these arguments, on items that were loaded as they say."""
    loading = {name: getattr(EnvConfig, name) for name in LOADING}
    return ViTPatchSelectEnv(**{**asdict(config), **loading, "dataset": items})


def evaluate_on_test(
    env: ViTPatchSelectEnv, episode: EpisodeName, agent: BaseAlgorithm, actions: ActionsName
) -> Evaluations:
    """Metrics and predictions of an episode's ViT on the test images.

    The agent's patches are those that it picks at the end of its run, whatever its kind: observing
    a progress of 1, or as many as a schedule has at its end.
    """
    evaluated = env.last_episode if episode == "last" else env.episode
    wrapped = env if actions == "mask" else ACTIONS[actions](env)
    of_agent = predict_with_agent(cast("Selector", agent), wrapped, "test", episode=episode)
    return Evaluations(
        all_patches=evaluated.predict_split("test"),
        agent_patches=of_agent.evaluated,
        n_selected_mean=of_agent.n_selected_mean,
    )


def run_length(env: ViTPatchSelectEnv) -> str:
    """The length of a run, in words."""
    epochs = f"{counted(env.epochs, 'epoch')} of {counted(env.steps_per_epoch, 'step')}"
    return {
        "epochs": epochs,
        "flops": f"the FLOPs of {epochs} on all patches",
        "seconds": f"{env.config.seconds} s",
    }[env.config.budget]
