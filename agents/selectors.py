"""Fixed rules that pick patches: the baselines that stand beside every agent.

`FixedRule` runs a rule with Stable-Baselines3's interface, so that scripts can put it in an
agent's place; the rules themselves are policies with Stable-Baselines3's predict().
"""

import math
import time
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from torch import Tensor

SelfFixedRule = TypeVar("SelfFixedRule", bound="FixedRule")


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
            f"n_keep must be a whole number in [1, {self.n_patches}] (n_patches), got {n_keep}"
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
        if not deterministic:
            return self.rng.random(self.n_patches)
        key = zlib.crc32(np.ascontiguousarray(observation).tobytes())
        return np.random.default_rng([self.seed or 0, key, self._n_before]).random(self.n_patches)


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
        return observation


class FixedRule(BaseAlgorithm):
    """Runs a fixed rule where an agent would learn: `learn`, `predict`, `save` and `load`.

    Args:
        policy: `all`, `random`, `centre`, `attended`, or a SelectorPolicy class.
        env: with a MultiBinary action space.
        n_keep: patches to keep, in 1...n_patches, or such a number for each step of the run, after
            which their mean, rounded, is kept; only `all` needs none.
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
        "centre": CentrePatches,
        "attended": MostAttendedPatches,
    }

    def __init__(
        self,
        policy: str | type[SelectorPolicy],
        env: GymEnv | str,
        n_keep: int | Sequence[int] | None = None,
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
        self.n_keep = n_keep if n_keep is None or isinstance(n_keep, int) else list(n_keep)
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
        if isinstance(self.n_keep, list):
            for n_keep in set(self.n_keep):
                self.policy.check_n_keep(n_keep)
        # A loaded rule goes on where it was saved, as `load` restores attributes before this.
        self.rng = getattr(self, "rng", self.policy.rng)
        self.policy.rng = self.rng

    def learn(
        self: SelfFixedRule,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "FixedRule",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfFixedRule:
        """Run the rule for `total_timesteps` steps; nothing is learned."""
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if isinstance(self.n_keep, list) and len(self.n_keep) * self.n_envs < total_timesteps:
            raise ValueError(
                f"n_keep must be a number for each of {total_timesteps} steps, "
                f"got {len(self.n_keep)}"
            )
        callback.on_training_start(locals(), globals())
        assert self.env is not None
        while self.num_timesteps < total_timesteps:
            assert self._last_obs is not None
            if isinstance(self.n_keep, list):
                self.policy.n_keep = self.n_keep[self.num_timesteps // self.n_envs]
            actions, _ = self.predict(self._last_obs)
            new_obs, rewards, dones, infos = self.env.step(actions)
            self.num_timesteps += self.env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                break
            self._update_info_buffer(infos, dones)
            self._last_obs = new_obs  # type: ignore[assignment]
            self._episode_num += int(dones.sum())
            if dones.any() and self._episode_num % log_interval == 0:
                self.dump_logs()
        self.policy.n_keep = self.policy.check_n_keep(self._n_keep_after())
        callback.on_training_end()
        return self

    def _n_keep_after(self) -> int | None:
        """The number of patches to keep when the run is over."""
        if isinstance(self.n_keep, list):
            return max(round(sum(self.n_keep) / max(len(self.n_keep), 1)), 1)
        return self.n_keep

    def dump_logs(self) -> None:
        """Write what was recorded, with the rate of steps and the episodes' rewards."""
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        self.logger.record(
            "time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / seconds)
        )
        self.logger.dump(step=self.num_timesteps)
