"""What an agent in a file has learned, without its environment."""

import math

from gymnasium import spaces

from vit_patch_env.agents import BanditPolicy
from vit_patch_env.agents.common.patch_policy import RUN_FEATURES
from vit_patch_env.checks import ArgumentError, InputError, shown
from vit_patch_env.experiments.agents_by_name.agent_file import (
    AgentCard,
    agent_path,
    read_card,
    read_parameters,
)
from vit_patch_env.patches.sampling import Grid


def load_bandit(agent: str, grid: Grid) -> tuple[BanditPolicy, AgentCard]:
    """A bandit's policy for a grid of patches, and the card of its file.

    Args:
        agent: `pretrained`, or the file of a bandit.
        grid: rows and columns of patches.

    Raises:
        ArgumentError: for a name, a file that is not an agent's, or an agent that needs an
            observation.
    """
    path = agent_path(agent) if isinstance(agent, str) else None
    if path is None:
        raise ArgumentError(
            "agent", f"must be pretrained or the file of a bandit, got {shown(agent)}"
        )
    card = read_card(path)
    if card.agent != "bandit":
        raise ArgumentError(
            "agent",
            "must be a bandit, which decides by the share of the budget used, got "
            f"{agent} ({card.agent}), which observes {card.observation}: it needs the environment, "
            "vit-patch train or gym.make",
        )
    n_patches = math.prod(grid)
    policy = BanditPolicy(
        spaces.Box(0, 1, (n_patches + RUN_FEATURES,)),  # which it does not see here
        spaces.MultiBinary(n_patches),
        grid=grid,
        **card.bandit.keywords()["policy_kwargs"],
    )
    try:
        policy.load_state_dict(read_parameters(path)["policy"])
    except (InputError, LookupError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise ArgumentError("agent", f"{agent} cannot be loaded: {reason}") from error
    return policy, card
