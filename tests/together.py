"""`python -m tests.together OUT JSON`: 50 steps in the environment, by one process or by several.

It trains as an RL script would, and writes what it saw; with torchrun, rank 0 does.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv


class Highest:
    """Selects the half of the patches with the highest observation."""

    def predict(self, observation: NDArray[np.float32], state: Any = None, **_: Any) -> Any:
        """The patches, and the state."""
        values = observation[:16]
        return (values >= np.median(values)).astype(np.int8), state


def train(arguments: dict[str, Any], path: str) -> None:
    """Train to the end or for 50 steps, with a load in between; evaluate, and write the results."""
    torch.set_num_threads(1)
    env = ViTPatchSelectEnv(**TINY | {"epochs": 8, **arguments})
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=3)
    seen: dict[str, list[Any]] = {"observations": [observation], "losses": [], "rewards": []}
    for step in range(50):
        action = (rng.random(16) < rng.choice([0.3, 0.6, 1.0])).astype(np.int8)
        observation, reward, terminated, truncated, info = env.step(action)
        seen["observations"].append(observation)
        seen["losses"].append(info["loss"])
        seen["rewards"].append(reward)
        if terminated or truncated:
            break
        if step == 14:  # with two or three batches per update, one waits
            env.load_state_dict(env.state_dict())
    numbers = {name: torch.tensor(np.array(values)) for name, values in seen.items()}
    weights = torch.cat([one.detach().flatten() for one in env.episode.model.parameters()])
    numbers |= {
        "weights": weights,
        "test": torch.tensor(env.evaluate("test")),
        "selected": torch.tensor(env.evaluate("val", Highest())),
        "flops": torch.tensor(float(env.episode.flops())),
    }
    torch.save(numbers, path)


if __name__ == "__main__":
    train(json.loads(sys.argv[2]), sys.argv[1])
