"""Every patch an agent: a PettingZoo `ParallelEnv` around the environment (extra `multi-agent`)."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from vit_patch_env.checks import ArgumentError, InputError, counted, shown
from vit_patch_env.episode import Selector
from vit_patch_env.observation import standardized
from vit_patch_env.patches.sampling import Grid, grid_of, grid_of_env, known_grid

try:
    from pettingzoo import ParallelEnv
except ImportError as missing:
    raise ImportError(
        "vit_patch_env.multi_agent needs pettingzoo: pip install 'vit-patch-env[multi-agent]'"
    ) from missing

N_OWN = 4
"""Numbers that an agent observes of its own patch."""


def agent_observations(
    values: NDArray[np.float32], features: NDArray[np.float32], grid: Grid | None = None
) -> NDArray[np.float32]:
    """What each patch's agent observes: (n_patches, 4 + n_features) float32.

    Columns: the patch's value; the same standardised over the patches, which is comparable between
    batches and runs, 0 where all values are equal; row and column of the patch's centre as shares
    of the image's height and width, in (0, 1); and the features, which all agents share.

    Args:
        values: observation of a batch, (n_patches,).
        features: of the run, (n_features,).
        grid: rows and columns of patches; by default a square.

    Raises:
        ValueError: if there is no grid and n_patches is not a square number.
    """
    n_patches = len(values)
    rows = np.empty((n_patches, N_OWN + len(features)), dtype=np.float32)
    rows[:, 0] = values
    rows[:, 1] = standardized(torch.tensor(values, device="cpu")).numpy()
    rows[:, 2:N_OWN] = _centres(grid_of(n_patches, grid))
    rows[:, N_OWN:] = features
    return rows


class PatchAgents(ParallelEnv):  # type: ignore[misc]  # PettingZoo publishes no types
    """Every patch is an agent that decides whether it is trained on; all share the reward.

    A PettingZoo `ParallelEnv`. What the paper names as future work, for algorithms that train one
    policy for all agents, or one for each.

    ## Agents
    `patch_0`, `patch_1`, ..., row by row from the top left. All act in each step and end together.

    ## Observation space
    `Box((5,), float32)` for each agent: the patch's value in the observation of the next batch,
    this value standardised over the patches, row and column of the patch in (0, 1), and the share
    of the budget used. With `+run` in the environment's observation `Box((7,), float32)`: all three
    run features. `state()` is the environment's observation.

    ## Action space
    `Discrete(2)` for each agent: 1 = train on this patch.

    ## Reward, end and info
    Those of the environment, the same for every agent.

    Args:
        env: an environment whose action space is MultiBinary(n_patches), and whose observation has
            a number per patch and then features of the run, if any; without them
            `info["progress"]` is the only feature. Without a `grid`, rows and columns of patches,
            they must form a square.

    Attributes:
        env: the environment.
        n_patches: number of agents.
        grid: rows and columns of patches.
        possible_agents: their names.
        agents: the same during an episode, none before and after it.

    Raises:
        ValueError: for other spaces.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        self.n_patches = _check_spaces(env)
        self.grid = _grid(env, self.n_patches)
        self.render_mode = env.render_mode
        self.metadata = {
            **env.metadata, "name": "vit_patch_select_v0", "is_parallelizable": True,
        }  # fmt: skip
        self.possible_agents = [f"patch_{index}" for index in range(self.n_patches)]
        self.agents: list[str] = []
        self.state_space = env.observation_space
        observation = _agent_space(env.observation_space, self.n_patches)
        # One object for each agent, as each is seeded on its own.
        self.observation_spaces = {
            agent: spaces.Box(observation.low, observation.high, dtype=np.float32)
            for agent in self.possible_agents
        }
        self.action_spaces = {agent: spaces.Discrete(2) for agent in self.possible_agents}
        self._state: NDArray[np.float32] | None = None

    def observation_space(self, agent: str) -> spaces.Box:
        """The observation space of an agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        """The action space of an agent."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, dict[str, Any]]]:
        """Start a training run.

        Args:
            seed: as of the environment's `reset`.
            options: ignored; PettingZoo passes some.
        """
        self._state, info = self.env.reset(seed=seed)
        self.agents = list(self.possible_agents)
        return self._observations(self._state, info), self._each(info)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[
        dict[str, NDArray[np.float32]],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Train on the patches whose agents choose so.

        Args:
            actions: 0 or 1 for each agent.

        Raises:
            ValueError: for other agents or actions, before the first reset and after the end.
        """
        if not self.agents:
            self._check_reset()
            raise InputError("expected a reset, as the episode has ended, got a step")
        if not isinstance(actions, Mapping):
            raise InputError(
                f"actions must be a dict with one for each of {self.n_patches} agents, "
                f"got {shown(actions)}"
            )
        if set(actions) != set(self.agents):
            differing = sorted(set(actions) ^ set(self.agents), key=str)
            raise InputError(
                f"actions must be one for each of {self.n_patches} agents, got {len(actions)} of "
                f"them, which differ at {shown(differing[0])}"
            )
        for agent, action in actions.items():
            if np.shape(action) or action not in (0, 1):
                raise InputError(f"the action of {agent} must be 0 or 1, got {shown(action)}")
        patch_mask = np.array([actions[agent] for agent in self.agents], dtype=np.int8)
        self._state, reward, terminated, truncated, info = self.env.step(patch_mask)
        results = (
            self._observations(self._state, info),
            dict.fromkeys(self.agents, float(reward)),
            dict.fromkeys(self.agents, terminated),
            dict.fromkeys(self.agents, truncated),
            self._each(info),
        )
        if terminated or truncated:
            self.agents = []
        return results

    def state(self) -> NDArray[np.float32]:
        """The environment's observation, for algorithms with a central critic.

        Raises:
            ValueError: before the first reset.
        """
        return self._check_reset().copy()

    def render(self) -> Any:
        """As the environment's."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        self.agents = []
        self._state = None
        self.env.close()

    def _check_reset(self) -> NDArray[np.float32]:
        if self._state is None:
            raise InputError("expected a reset before this call, got none")
        return self._state

    def _observations(
        self, observation: NDArray[np.float32], info: dict[str, Any]
    ) -> dict[str, NDArray[np.float32]]:
        values, features = np.split(observation, [self.n_patches])
        if not len(features):
            if "progress" not in info:
                raise InputError(
                    "info must have progress where the observation has no features of the run, "
                    f"got {shown(sorted(info))}"
                )
            features = np.array([info["progress"]], dtype=np.float32)
        rows = agent_observations(values, features, self.grid)
        return dict(zip(self.agents, rows, strict=True))

    def _each(self, info: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The info for each agent, in a dict of its own: wrappers add entries."""
        return {agent: dict(info) for agent in self.agents}


class SharedPolicy:
    """The patch masks of a policy that all agents share: a selector for `evaluate`.

    Args:
        policy: anything with Stable-Baselines3's predict() that maps the observations of agents,
            (n_agents, n_numbers), to their actions, without a hidden state.
        n_patches: number of agents.
        grid: rows and columns of patches, `PatchAgents.grid`; by default a square.

    Raises:
        ValueError: for a grid of another number of patches, or none where they form no square.
    """

    def __init__(self, policy: Selector, n_patches: int, grid: Grid | None = None) -> None:
        if grid is not None and known_grid(n_patches, grid) is None:
            raise ArgumentError(
                "grid",
                f"must be rows and columns of {counted(n_patches, 'patch')}, got {shown(grid)}",
            )
        self.policy = policy
        self.n_patches = n_patches
        self.grid = grid_of(n_patches, grid)

    def predict(
        self,
        observation: NDArray[np.float32],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int8], Any]:
        """Patch mask (n_patches,) for an observation of the environment, and no state.

        Without run features in the observation the share of the budget used is 1: splits are
        evaluated after a run.
        """
        values, features = np.split(np.asarray(observation, dtype=np.float32), [self.n_patches])
        features = features if len(features) else np.ones(1, np.float32)
        rows = agent_observations(values, features, self.grid)
        actions, _ = self.policy.predict(rows, deterministic=deterministic)
        return np.asarray(actions, dtype=np.int8).reshape(self.n_patches), None


def _check_spaces(env: gym.Env[Any, Any]) -> int:
    """Number of patches of an environment.

    Raises:
        ArgumentError: if its spaces are not those of patches.
    """
    action, observation = env.action_space, env.observation_space
    if not isinstance(action, spaces.MultiBinary) or len(action.shape) != 1:
        raise ArgumentError("env", f"must have the action space MultiBinary(n), got {action}")
    n_patches = int(action.shape[0])
    shape = observation.shape if isinstance(observation, spaces.Box) else ()
    if len(shape) != 1 or shape[0] < n_patches:
        raise ArgumentError(
            "env",
            f"must have an observation of {counted(n_patches, 'number')} or more, got "
            f"{observation}",
        )
    return n_patches


def _grid(env: gym.Env[Any, Any], n_patches: int) -> Grid:
    """Rows and columns of an environment's patches.

    Raises:
        ArgumentError: if it does not say them and they form no square.
    """
    try:
        return grid_of_env(env, n_patches)
    except InputError as error:
        raise ArgumentError(
            "env", f"must have a square number of patches or a grid, got {n_patches}"
        ) from error


def _agent_space(observation: spaces.Space[Any], n_patches: int) -> spaces.Box:
    """The space of `agent_observations`."""
    assert isinstance(observation, spaces.Box)
    low, high = observation.low, observation.high
    # Of n numbers with mean 0 and standard deviation 1, one is at most sqrt(n - 1).
    largest = math.sqrt(n_patches) if n_patches > 1 else 1.0
    has_features = len(low) > n_patches
    return spaces.Box(
        np.array(
            [low[:n_patches].min(), -largest, 0, 0, *(low[n_patches:] if has_features else [0])],
            dtype=np.float32,
        ),
        np.array(
            [high[:n_patches].max(), largest, 1, 1, *(high[n_patches:] if has_features else [1])],
            dtype=np.float32,
        ),
        dtype=np.float32,
    )


@cache
def _centres(grid: Grid) -> NDArray[np.float64]:
    """Row and column of the centre of each patch, in (0, 1): (n_patches, 2)."""
    cells = np.divmod(np.arange(math.prod(grid)), grid[1])
    return (np.stack(cells, axis=1) + 0.5) / grid
