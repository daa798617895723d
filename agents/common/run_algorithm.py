"""What algorithms share that learn from whole runs, on any number of patches."""

import io
from pathlib import Path
from typing import Any, TypeVar

from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from vit_patch_env.agents.common.online_algorithm import OnlineAlgorithm
from vit_patch_env.agents.common.patch_policy import PatchPolicy, count_patches
from vit_patch_env.checks import check

SelfRunAlgorithm = TypeVar("SelfRunAlgorithm", bound="RunAlgorithm")


class RunAlgorithm(OnlineAlgorithm):
    """Decides by the share of the budget that a run has used, on the CPU.

    Args:
        policy: a class of patch policies, or its name.
        env: with a MultiBinary action space.
        learning: whether `learn` explores and updates the policy.
        of_all: arguments of all of Stable-Baselines3's algorithms.
    """

    def __init__(
        self, policy: str | type[BasePolicy], env: GymEnv | str, *, learning: bool, **of_all: Any
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=0.0,
            device="cpu",
            support_multi_env=True,
            supported_action_spaces=(spaces.MultiBinary,),
            **of_all,
        )
        self.learning = check(bool, learning=learning)

    def _setup_model(self) -> None:
        self.set_random_seed(self.seed)
        policy = self.policy_class(
            self.observation_space,
            self.action_space,
            seed=self.seed,
            grid=self.known_grid(),
            **self.policy_kwargs,
        )
        assert isinstance(policy, PatchPolicy)
        self._use_policy(policy)

    @classmethod
    def load(
        cls: type[SelfRunAlgorithm],
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: Any = "auto",
        custom_objects: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> SelfRunAlgorithm:
        """Load an agent; arguments as in Stable-Baselines3.

        The environment may have another number of patches than the one it learned in.

        Raises:
            ValueError: for a hyperparameter outside its range, or patches whose grid is not known
                and that form no square.
        """
        if env is not None:
            of_env = {"observation_space": env.observation_space, "action_space": env.action_space}
            custom_objects = {**of_env, **(custom_objects or {})}
        return super().load(path, env, device, custom_objects, *args, **kwargs)

    def _progress(self, info: dict[str, Any], new_observation: NDArray[Any]) -> float:
        """The share of the budget used; from the observation if the environment's info lacks it."""
        if "progress" in info:
            return float(info["progress"])
        observation = info.get("terminal_observation", new_observation)
        return float(observation[count_patches(self.action_space)])
