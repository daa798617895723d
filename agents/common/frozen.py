"""An agent that acts and no longer learns."""

from typing import Any

from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from vit_patch_env.agents.common.online_algorithm import OnlineAlgorithm


class Frozen(OnlineAlgorithm):
    """Runs another algorithm's trained agent without further learning.

    Args:
        agent: of any Stable-Baselines3 algorithm, with its environment. It acts as in training,
            with its policy's randomness; DQNs explore with their final ε.
    """

    def __init__(self, agent: BaseAlgorithm) -> None:
        super().__init__(
            type(agent.policy),
            agent.env,
            learning_rate=0.0,
            device=agent.device,
            seed=agent.seed,
            support_multi_env=True,
        )
        self.agent = agent
        self.policy = agent.policy
        if hasattr(agent, "exploration_rate") and hasattr(agent, "exploration_final_eps"):
            agent.exploration_rate = agent.exploration_final_eps

    def _setup_model(self) -> None:
        """Nothing to set up: the agent exists already."""

    def _act(self, observations: NDArray[Any]) -> NDArray[Any]:
        return self.agent.predict(observations)[0]

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the agent and what it seeds."""
        self.agent.set_random_seed(seed)

    def predict(self, *args: Any, **kwargs: Any) -> tuple[NDArray[Any], Any]:
        """Predict as the agent does."""
        return self.agent.predict(*args, **kwargs)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the agent as its own algorithm does, so that this algorithm can load it."""
        self.agent.save(*args, **kwargs)
