"""ScheduleBandit: Thompson sampling over a family of schedules, with the training as context."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from vit_patch_env.agents.common.run_algorithm import RunAlgorithm
from vit_patch_env.agents.fixed_rules.growing import GrowingOptions
from vit_patch_env.agents.schedule_bandit.context import RunContext
from vit_patch_env.agents.schedule_bandit.policy import FinishedRun, SchedulePolicy


@dataclass
class _Decision:
    """The schedule of one environment's run, and its results so far."""

    context: RunContext
    schedule: GrowingOptions
    progress: float = 0.0
    reward: float = 0.0


class ScheduleBandit(RunAlgorithm):
    """A contextual bandit for MultiBinary actions: one schedule for each training run.

    Thompson sampling (Thompson 1933; Chapelle and Li 2011) with a Gaussian process. The arms
    are schedules of the family `growing`, the context is what the environment's reset says of the
    training. A run is valued at the validation accuracy in its last info, as that of
    `ViTPatchSelect-v0` has it, or at the sum of its rewards if there is none. Runs of one training
    are compared with each other alone, so it learns across trainings of any difficulty.

    Types and ranges of its hyperparameters are declared in `ScheduleOptions`.

    Args:
        policy: `SchedulePolicy`.
        env: with a MultiBinary action space, an observation `...+run`, and what `RunContext` needs
            in the info of its reset.
        learning: whether `learn` samples schedules and updates the model; if not, it uses the
            one that is worth most, as far as that is known.
        stats_window_size: number of episodes that logged rewards and lengths are averaged over.
        tensorboard_log: folder for TensorBoard, or None.
        policy_kwargs: of the policy, besides its seed and grid.
        verbose: 0 for no output, 1 for information.
        seed: of the agent and the environment.
        device: unused: it always runs on the CPU; for the same signature as other agents.

    Raises:
        ValueError: for a value outside its range, or an observation without run features.
    """

    policy: SchedulePolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"SchedulePolicy": SchedulePolicy}

    def __init__(
        self,
        policy: str | type[SchedulePolicy],
        env: GymEnv | str,
        learning: bool = True,
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
            learning=learning,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
        )
        if _init_setup_model:
            self._setup_model()

    def _on_training_start(self, total_timesteps: int, *, resets: bool) -> None:
        if resets:
            self._decisions = [self._decide(index) for index in range(self.n_envs)]

    def _decide(self, index: int) -> _Decision:
        """The schedule of an environment's next run."""
        assert self.env is not None
        context = RunContext.from_info(self.env.reset_infos[index])
        self.policy.use(context)
        schedule = self.policy.schedule
        if self.learning:
            schedule = self.policy.sampled_schedule(context)
        return _Decision(context, schedule)

    def _act(self, observations: NDArray[Any]) -> NDArray[Any]:
        policy, masks = self.policy, []
        for decision in self._decisions:
            policy.schedule = decision.schedule
            n_keep = policy.n_keep(float(np.float32(decision.progress)))  # as observations have it
            masks.append(policy.sample_patches(n_keep, policy.rng))
        return np.stack(masks)

    def _after_step(
        self,
        new_observations: Any,
        actions: NDArray[Any],
        rewards: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        for index, decision in enumerate(self._decisions):
            decision.progress = self._progress(infos[index], new_observations[index])
            decision.reward += float(rewards[index])
            if not dones[index]:
                continue
            if self.learning:
                value = decision.reward
                if "val_accuracy" in infos[index]:
                    diverged = infos[index].get("diverged", False)
                    value = 0.0 if diverged else float(infos[index]["val_accuracy"])
                self.policy.record(FinishedRun(decision.context, decision.schedule, value))
                self.logger.record("agent/value", value)
                self.logger.record("agent/n_runs", float(len(self.policy.runs)))
            self._decisions[index] = self._decide(index)
