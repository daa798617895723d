"""The reward of a divergence at the default sizes, as a table: `python -m tests.penalties`."""

import math
import warnings
from typing import Any

import numpy as np
import torch

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.reward import REWARDS

BUDGETS: dict[str, dict[str, Any]] = {
    "epochs": {},
    "flops": {"budget": "flops"},
    "seconds=60": {"budget": "seconds", "seconds": 60},
}


def penalty(**kwargs: Any) -> float:
    """The reward of a run whose weights are NaN at its first step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of observations that do not show the run
        env = ViTPatchSelectEnv(device="cpu", **kwargs)
    env.reset(seed=0)
    with torch.no_grad():
        next(env.episode.model.parameters())[:] = math.nan
    return env.step(np.ones(env.n_patches))[1]


def main() -> None:
    """Print the table."""
    print("| `reward` | " + " | ".join(f"`{name}`" for name in BUDGETS) + " |")
    print("| --- |" + " ---: |" * len(BUDGETS))
    for reward in REWARDS:
        values = (f"{penalty(reward=reward, **budget):,.0f}" for budget in BUDGETS.values())
        print(f"| `{reward}` | " + " | ".join(values) + " |", flush=True)


if __name__ == "__main__":
    main()
