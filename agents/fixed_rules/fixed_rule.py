"""Runs fixed rules with Stable-Baselines3's interface, in place of an agent."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from vit_patch_env.agents.common.online_algorithm import OnlineAlgorithm
from vit_patch_env.agents.common.patch_policy import count_patches
from vit_patch_env.agents.fixed_rules.rules import RULES
from vit_patch_env.agents.fixed_rules.selector_policy import SelectorPolicy, check_n_keep
from vit_patch_env.checks import ArgumentError, counted, shown

_END = 1 - 1e-9
"""Share of the budget used at a run's end, as functions of it are defined below 1."""


class FixedRule(OnlineAlgorithm):
    """Runs a fixed rule in place of an agent: `learn`, `predict`, `save` and `load`.

    Args:
        policy: a name in `RULES` (`all`, `random`, `spread`, `centre`, `attended`), or a
            SelectorPolicy class.
        env: with a MultiBinary action space.
        n_keep: number of patches to keep, in 1...n_patches; a sequence of such numbers, one for
            each step of the run; or a function that maps the share of the budget used,
            `info["progress"]` in [0, 1), to such a number. After `learn`, predictions keep as many
            as at the end of the run, as those of agents that observe its progress do. `all` needs
            none. Another one may be assigned before `learn`.
        stats_window_size: number of episodes that logged rewards and lengths are averaged over.
        tensorboard_log: folder for TensorBoard, or None.
        policy_kwargs: of the policy, besides n_keep, seed and grid.
        verbose: 0 for no output, 1 for information.
        seed: of the rule and the environment.
        device: unused, since nothing is learned; for the same signature as other agents.

    Raises:
        ValueError: if n_keep is out of range or not an integer, NumPy's included; or if it is a
            function and the environment's info has no `progress`.
    """

    policy: SelectorPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {**RULES}

    def __init__(
        self,
        policy: str | type[SelectorPolicy],
        env: GymEnv | str,
        n_keep: int | Sequence[int] | NDArray[np.integer] | Callable[[float], int] | None = None,
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
        self.n_keep = n_keep
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self.set_random_seed(self.seed)
        self.n_keep = self._checked(self.n_keep)
        policy = self.policy_class(
            self.observation_space,
            self.action_space,
            n_keep=self._n_keep_after(),
            seed=self.seed,
            grid=self.known_grid(),
            **self.policy_kwargs,
        )
        assert isinstance(policy, SelectorPolicy)
        self._use_policy(policy)

    def _checked(self, n_keep: Any) -> Any:
        """A sequence of numbers as an array of integers; anything else unchanged."""
        is_sequence = isinstance(n_keep, Sequence) and not isinstance(n_keep, str | bytes)
        if not is_sequence and not (isinstance(n_keep, np.ndarray) and n_keep.ndim):
            return n_keep
        if not len(n_keep):
            raise ArgumentError("n_keep", "must be a number for each step, got none")
        n_patches = count_patches(self.action_space)
        return np.array([check_n_keep(one, n_patches) for one in n_keep], dtype=np.int64)

    @property
    def log_name(self) -> str:
        """The names of the class and of the rule."""
        names = {rule: name for name, rule in RULES.items()}
        rule = type(self.policy)
        return f"{type(self).__name__}_{names.get(rule, rule.__name__)}"

    def _on_training_start(self, total_timesteps: int, *, resets: bool) -> None:
        if resets:
            self._progress = [0.0] * self.n_envs
        # It may have been assigned since the last call.
        self.n_keep = self._checked(self.n_keep)
        if not callable(self.n_keep):
            self.policy.n_keep = self.policy.check_n_keep(self._n_keep_after())
        n_steps = math.ceil(total_timesteps / self.n_envs)
        if isinstance(self.n_keep, np.ndarray) and len(self.n_keep) < n_steps:
            raise ArgumentError(
                "n_keep",
                f"must be a number for each of {counted(n_steps, 'step')}, got {len(self.n_keep)}",
            )

    def _act(self, observations: NDArray[Any]) -> NDArray[Any]:
        if callable(self.n_keep):
            masks = []
            for observation, progress in zip(observations, self._progress, strict=True):
                self.policy.n_keep = self.policy.check_n_keep(self.n_keep(progress))
                masks.append(self.predict(observation)[0])
            return np.stack(masks)
        if isinstance(self.n_keep, np.ndarray):
            n_keep = int(self.n_keep[self.num_timesteps // self.n_envs])
            self.policy.n_keep = self.policy.check_n_keep(n_keep)
        return self.predict(observations)[0]

    def _after_step(
        self,
        new_observations: Any,
        actions: NDArray[Any],
        rewards: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        if not callable(self.n_keep):
            return
        if "progress" not in infos[0]:
            raise ArgumentError(
                "n_keep",
                "as a function needs an environment whose info has progress, the share of the "
                f"budget used, got an info of {shown(list(infos[0]))}",
            )
        self._progress = [
            0.0 if done else info["progress"] for info, done in zip(infos, dones, strict=True)
        ]

    def _on_training_end(self) -> None:
        self.policy.n_keep = self.policy.check_n_keep(self._n_keep_after())

    def _n_keep_after(self) -> int | None:
        """The number of patches that predictions keep after the run."""
        if isinstance(self.n_keep, np.ndarray) and self.n_keep.ndim:
            return int(self.n_keep[-1])
        if callable(self.n_keep):
            n_patches = count_patches(self.action_space)
            shares = (*(step / 1000 for step in range(1000)), _END)  # all are checked
            return [check_n_keep(self.n_keep(share), n_patches) for share in shares][-1]
        return cast("int | None", self.n_keep)  # which the policy checks
