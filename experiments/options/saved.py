"""Options that were saved in files, also by earlier versions."""

import ast
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


FORMER_OPTIONS = {
    f"--{prefix}{former}".replace("_", "-"): f"--{prefix}{name}".replace("_", "-")
    for former, name in _RENAMED.items()
    for prefix in ("", "dqn.")
}
"""Present options of the command line, by those before version 0.2."""


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
        current |= {"sb3": [], "bandit": _bandit(texts)}
    return current


def _bandit(texts: list[Any]) -> dict[str, Any]:
    """The bandit's values by name."""
    values: dict[str, Any] = {}
    for text in texts:
        name, _, value = str(text).partition("=")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name] = value
    of_policy = values.pop("policy_kwargs", {})
    return {**values, **(with_current_names(of_policy) if isinstance(of_policy, dict) else {})}
