"""Options that were saved in files, also by earlier versions."""

from collections.abc import Mapping
from typing import Any

from vit_patch_env.arguments import from_json
from vit_patch_env.experiments.options.commands import TrainOptions

_RENAMED = {
    "draw": "sampling",
    "eps_start": "exploration_initial_eps",
    "eps_end": "exploration_final_eps",
    "eps_decay": "exploration_decay_steps",
}
"""Current names of arguments, by their names before version 0.2."""


def train_options(values: Any) -> TrainOptions:
    """The options in a run's config.json.

    Raises:
        ArgumentError: naming an argument that is unknown, or whose value is not valid.
    """
    return from_json(TrainOptions, with_current_names(values))


def with_current_names(values: Any) -> Any:
    """JSON of options with the names of earlier versions replaced."""
    if not isinstance(values, Mapping):
        return values
    current = {_RENAMED.get(name, name): with_current_names(one) for name, one in values.items()}
    texts = current.get("sb3")
    if current.get("agent") == "bandit" and isinstance(texts, list) and "bandit" not in current:
        # The bandit's values were texts like those of Stable-Baselines3's algorithms.
        pairs = [str(text).partition("=") for text in texts]
        numbers = {name: float(text) if "." in text else int(text) for name, _, text in pairs}
        current |= {"sb3": [], "bandit": numbers}
    return current
