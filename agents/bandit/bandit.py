"""PatchBandit: Thompson sampling over the number of patches at each point of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from vit_patch_env.agents.bandit.options import BanditOptions
from vit_patch_env.agents.bandit.policies import BanditPolicy
from vit_patch_env.agents.common.run_algorithm import RunAlgorithm
from vit_patch_env.checks import ArgumentError


@dataclass
class _Decision:
    """The current decision of one environment, and its results so far.

    Attributes:
        weights: sampled, of numbers of patches.
        scores: sampled, of patches, (n_patches,).
        features: sum over steps of cost * features of the number of patches.
        patches: sum over steps of cost * centred patch mask, (n_patches,).
        budget_steps: of the episode.
        n_steps: steps so far.
        reward: sum of rewards.
        cost: share of the budget used.
        progress: at the last step.
    """

    weights: Tensor
    scores: NDArray[np.float64]
    features: NDArray[np.float64]
    patches: NDArray[np.float64]
    budget_steps: int
    n_steps: int = 0
    reward: float = 0.0
    cost: float = 0.0
    progress: float = 0.0


class PatchBandit(RunAlgorithm):
    """A contextual bandit for MultiBinary actions: how many patches to keep, and which.

    Thompson sampling (Thompson 1933; Chapelle and Li 2011) with a Bayesian linear model. The
    context is the share of the budget used and the run's length, the arms are numbers of patches;
    in addition, each patch has a score. A decision, one sample of the model, is used for
    `decision_steps` steps or an entire episode. It is then valued at its reward per share of the
    budget used.

    - `decision_steps=None`: one decision per episode. The rewards include the long-term effects of
      each step, so the bandit learns schedules, from many short runs.
    - `decision_steps=50`, for example: several decisions within a run, myopic. `forgetting` below 1
      tracks non-stationary rewards.

    Types and ranges of its hyperparameters are declared in `BanditOptions`.

    Args:
        policy: `BanditPolicy`.
        env: with a MultiBinary action space and an observation `...+run`.
        decision_steps: steps per decision; None for one decision per episode.
        forgetting: factor on the weight of earlier decisions at each update.
        learning: whether `learn` updates the model; if not, it acts by the posterior mean.
        stats_window_size: number of episodes that logged rewards and lengths are averaged over.
        tensorboard_log: folder for TensorBoard, or None.
        policy_kwargs: of the policy, besides its seed and grid.
        verbose: 0 for no output, 1 for information.
        seed: of the agent and the environment.
        device: unused: it always runs on the CPU; for the same signature as other agents.

    Raises:
        ValueError: for a value outside its range, or an observation without run features.
    """

    policy: BanditPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"BanditPolicy": BanditPolicy}
    renamed: ClassVar[Mapping[str, str]] = {"draw": "sampling"}
    options = BanditOptions

    def __init__(
        self,
        policy: str | type[BanditPolicy],
        env: GymEnv | str,
        decision_steps: int | None = BanditOptions.decision_steps,
        forgetting: float = BanditOptions.forgetting,
        learning: bool = True,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
    ) -> None:
        options = BanditOptions(decision_steps=decision_steps, forgetting=forgetting)  # checks
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
        self.decision_steps = options.decision_steps
        self.forgetting = options.forgetting
        if _init_setup_model:
            self._setup_model()

    def _on_training_start(self, total_timesteps: int, *, resets: bool) -> None:
        if resets:
            self._decisions = [self._decide(index, 0.0) for index in range(self.n_envs)]

    def _decide(self, index: int, progress: float) -> _Decision:
        """A new decision: a sample of the model, or its mean if it does not learn."""
        policy = self.policy
        assert self.env is not None
        if "budget_steps" in self.env.reset_infos[index]:
            policy.budget_steps.fill_(self.env.reset_infos[index]["budget_steps"])
        counts, patches = (
            model.sample(policy.rng) if self.learning else model.mean()
            for model in (policy.of_counts, policy.of_patches)
        )
        return _Decision(
            weights=counts,
            scores=patches.numpy(),
            features=np.zeros(len(counts)),
            patches=np.zeros(policy.n_patches),
            budget_steps=int(policy.budget_steps),
            progress=progress,
        )

    def _act(self, observations: NDArray[Any]) -> NDArray[Any]:
        policy = self.policy
        masks = []
        for decision in self._decisions:
            progress = float(np.float32(decision.progress))  # as observations have it
            n_keep = policy.best_count(progress, decision.budget_steps, decision.weights)
            masks.append(policy.sample_patches(decision.scores, n_keep, policy.rng))
        return np.stack(masks)

    def _after_step(
        self,
        new_observations: Any,
        actions: NDArray[Any],
        rewards: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        policy = self.policy
        for index, decision in enumerate(self._decisions):
            before, after = decision.progress, self._progress(infos[index], new_observations[index])
            if not self.learning:
                decision.progress = 0.0 if dones[index] else after
                continue
            cost, mask = max(after - before, 0.0), actions[index]
            features = policy.features(before, decision.budget_steps)[
                policy.counts.index(int(mask.sum()))
            ]
            decision.features += cost * features
            decision.patches += cost * (mask - mask.mean())
            decision.cost += cost
            decision.reward += float(rewards[index])
            decision.progress = after
            decision.n_steps += 1
            if dones[index] and decision.cost <= 0 and "progress" not in infos[index]:
                raise ArgumentError(
                    "env",
                    "must report the share of the budget used as info['progress'], or as number "
                    f"{policy.n_patches} of its observation, got an episode in which it is {after}",
                )
            if dones[index] or decision.n_steps == self.decision_steps:
                self._learn_from(decision)
                self._decisions[index] = self._decide(index, 0.0 if dones[index] else after)

    def _learn_from(self, decision: _Decision) -> None:
        """Update the model with a finished decision."""
        if decision.cost <= 0:  # no budget was used: its value is undefined
            return
        policy = self.policy
        value = decision.reward / decision.cost
        features = torch.from_numpy(decision.features / decision.cost)
        expected = float(policy.of_counts.mean() @ features)
        policy.of_counts.update(features, value, self.forgetting)
        # The residual of the number of patches is explained by which patches they were.
        patches = torch.from_numpy(decision.patches / decision.cost)
        policy.of_patches.update(patches, value - expected, self.forgetting)
        self.logger.record("agent/value", value)
        self.logger.record("agent/n_decisions", float(policy.of_counts.n_seen))
