"""Fixed rules that pick patches: the baselines that stand beside every agent.

`FixedRule` runs a rule with Stable-Baselines3's interface, so that scripts can put it in an
agent's place; the rules themselves are policies with Stable-Baselines3's predict().
"""

import math
import zlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from vit_patch_env.agents.common.playing import PlayingAlgorithm
from vit_patch_env.patches.sampling import draw_spread


class SelectorPolicy(BasePolicy):
    """A rule that scores the patches and keeps the `n_keep` with the highest scores.

    Args:
        observation_space: Box(n_patches,).
        action_space: MultiBinary(n_patches).
        n_keep: patches to keep, in 1...n_patches.
        seed: of random rules.

    Raises:
        ValueError: if n_keep is out of range.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.MultiBinary,
        n_keep: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.n_patches = int(action_space.shape[0])
        self.n_keep = self.check_n_keep(n_keep)
        self.seed = seed
        self.rng = np.random.default_rng(seed)

    def check_n_keep(self, n_keep: int | None) -> int:
        """The number of patches to keep.

        Raises:
            ValueError: if it is out of range.
        """
        if isinstance(n_keep, int) and 1 <= n_keep <= self.n_patches:
            return n_keep
        raise ValueError(
            f"n_keep must be an integer in [1, {self.n_patches}] (n_patches), got {n_keep}"
        )

    @abstractmethod
    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        """A score (n_patches,) for each patch; the `n_keep` highest are kept."""

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        masks = torch.zeros((len(observation), self.n_patches), dtype=torch.int8)
        for mask, one in zip(masks, observation.cpu().numpy(), strict=True):
            order = np.argsort(-self._scores(one, deterministic), kind="stable")
            mask[order[: self.n_keep]] = 1
        return masks


class AllPatches(SelectorPolicy):
    """Keeps every patch, whatever `n_keep` says: plain ViT training."""

    def check_n_keep(self, n_keep: int | None) -> int:
        """All patches."""
        return self.n_patches

    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        return np.zeros(self.n_patches)


class RandomPatches(SelectorPolicy):
    """Keeps random patches, drawn anew for each batch.

    With `deterministic=True` they depend on the seed, the observation and the number of predictions
    before, which is the policy's state, so that an evaluation can be repeated.
    """

    _n_before = 0

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """Patch masks and the next state: the number of predictions, this one included."""
        self._n_before = 0 if state is None else int(state[0])
        actions, _ = super().predict(observation, None, episode_start, deterministic)
        return actions, (np.array(self._n_before + 1),)

    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        return self._rng(observation, deterministic).random(self.n_patches)

    def _rng(self, observation: NDArray[Any], deterministic: bool) -> np.random.Generator:
        """Where the draw comes from."""
        if not deterministic:
            return self.rng
        key = zlib.crc32(np.ascontiguousarray(observation).tobytes())
        return np.random.default_rng([self.seed or 0, key, self._n_before])


class SpreadPatches(RandomPatches):
    """Keeps random patches that are spread over the image, drawn anew for each batch."""

    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        rng = self._rng(observation, deterministic)
        return draw_spread(np.zeros(self.n_patches), self.n_keep, rng)


class CentrePatches(SelectorPolicy):
    """Keeps the patches nearest the image's centre, always the same."""

    def check_n_keep(self, n_keep: int | None) -> int:
        """The number of patches to keep.

        Raises:
            ValueError: if it is out of range, or the patches form no square.
        """
        if math.isqrt(self.n_patches) ** 2 != self.n_patches:
            raise ValueError(f"n_patches must be a square number, got {self.n_patches}")
        return super().check_n_keep(n_keep)

    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        side = math.isqrt(self.n_patches)
        squared = (np.arange(side) - (side - 1) / 2) ** 2
        return -(squared[:, None] + squared).ravel()


class MostAttendedPatches(SelectorPolicy):
    """Keeps the patches with the highest observation: the most attention of the first layer."""

    def _scores(self, observation: NDArray[Any], deterministic: bool) -> NDArray[Any]:
        return observation[: self.n_patches]  # the run's figures may follow


class FixedRule(PlayingAlgorithm):
    """Runs a fixed rule where an agent would learn: `learn`, `predict`, `save` and `load`.

    Args:
        policy: `all`, `random`, `spread`, `centre`, `attended`, or a SelectorPolicy class.
        env: with a MultiBinary action space.
        n_keep: patches to keep, in 1...n_patches; or such a number for each step of the run; or a
            function that gives one for the share of the budget used, `info["progress"]` in [0, 1).
            After the run the mean of these numbers, rounded, is kept. Only `all` needs none.
        stats_window_size: episodes that rollout figures are averaged over.
        tensorboard_log: folder for TensorBoard, or None.
        policy_kwargs: for the policy, beside n_keep and seed.
        verbose: 0 for no output, 1 for information.
        seed: of the rule and of the environment.
        device: unused, as nothing is learned; present for exchange with other agents.

    Raises:
        ValueError: if n_keep is out of range.
    """

    policy: SelectorPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "all": AllPatches,
        "random": RandomPatches,
        "spread": SpreadPatches,
        "centre": CentrePatches,
        "attended": MostAttendedPatches,
    }

    def __init__(
        self,
        policy: str | type[SelectorPolicy],
        env: GymEnv | str,
        n_keep: int | Sequence[int] | Callable[[float], int] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=0.0,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            supported_action_spaces=(spaces.MultiBinary,),
        )
        self.n_keep = np.array(n_keep, dtype=np.int64) if isinstance(n_keep, Sequence) else n_keep
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self.set_random_seed(self.seed)
        policy = self.policy_class(
            self.observation_space,
            self.action_space,
            n_keep=self._n_keep_after(),
            seed=self.seed,
            **self.policy_kwargs,
        )
        assert isinstance(policy, SelectorPolicy)
        self.policy = policy
        for n_keep in set(self._n_keep_over_run()):
            self.policy.check_n_keep(n_keep)
        # A loaded rule goes on where it was saved, as `load` restores attributes before this.
        self.rng = getattr(self, "rng", self.policy.rng)
        self.policy.rng = self.rng

    def _begin(self, total_timesteps: int) -> None:
        self._progress = 0.0
        if isinstance(self.n_keep, np.ndarray) and len(self.n_keep) * self.n_envs < total_timesteps:
            raise ValueError(
                f"n_keep must be a number for each of {total_timesteps} steps, "
                f"got {len(self.n_keep)}"
            )

    def _act(self, observations: NDArray[Any]) -> NDArray[Any]:
        if isinstance(self.n_keep, np.ndarray):
            self.policy.n_keep = int(self.n_keep[self.num_timesteps // self.n_envs])
        elif callable(self.n_keep):
            self.policy.n_keep = self.n_keep(self._progress)
        return self.predict(observations)[0]

    def _take(
        self,
        observations: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        self._progress = 0.0 if dones[0] else infos[0].get("progress", 0.0)

    def _end(self) -> None:
        self.policy.n_keep = self.policy.check_n_keep(self._n_keep_after())

    def _n_keep_after(self) -> int | None:
        """The number of patches to keep when the run is over."""
        if self.n_keep is None or isinstance(self.n_keep, int):
            return self.n_keep
        over_run = self._n_keep_over_run()
        return max(round(sum(over_run) / max(len(over_run), 1)), 1)

    def _n_keep_over_run(self) -> list[int]:
        """Numbers of patches from the run's start to its end, where they change."""
        if isinstance(self.n_keep, np.ndarray):
            return [int(n_keep) for n_keep in self.n_keep]
        if callable(self.n_keep):
            return [self.n_keep(step / 1000) for step in range(1000)]
        return []
