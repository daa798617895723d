"""PatchBandit: Thompson sampling over the number of patches at each point of a run."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from vit_patch_env.agents.bandit.policies import BanditPolicy
from vit_patch_env.agents.common.playing import PlayingAlgorithm


@dataclass
class _Decision:
    """What one environment is doing at present, and what it has brought so far."""

    weights: Tensor
    scores: NDArray[np.float64]
    features: NDArray[np.float64]
    patches: NDArray[np.float64]
    budget_steps: int
    n_steps: int = 0
    reward: float = 0.0
    cost: float = 0.0
    progress: float = field(default=0.0)


class PatchBandit(PlayingAlgorithm):
    """A contextual bandit for MultiBinary actions: how many patches, and which, at which point.

    Thompson sampling (Thompson 1933; Chapelle and Li 2011) on a Bayesian linear model. The context
    is the share of the budget used and the run's length, the arms are numbers of patches; beside
    them each patch has a score. A decision, one sample of the model, holds for `decision_steps`
    steps or for a whole episode. It is credited with what an episode's sum counts: its reward over
    its share of the budget.

    - `decision_steps=None`: whole episodes. What a step does to the end of the run is in its
      reward, so it learns schedules, over many short runs.
    - `decision_steps=50`, say: within a run, myopic; `forgetting` below 1 follows rewards that
      drift.

    Args:
        policy: `BanditPolicy`.
        env: with a MultiBinary action space and an observation `...+run`.
        decision_steps: steps that a decision holds for; None for the whole episode.
        forgetting: weight that earlier decisions keep with each new one, in (0, 1].
        learning: whether `learn` learns; else it does what is best by all that is known.
        stats_window_size: episodes that rollout figures are averaged over.
        tensorboard_log: folder for TensorBoard, or None.
        policy_kwargs: for the policy, beside its seed.
        verbose: 0 for no output, 1 for information.
        seed: of the agent and of the environment.
        device: unused, as its arithmetic is small; present for exchange with other agents.

    Raises:
        ValueError: for a value outside its range, or an observation without the run's figures.
    """

    policy: BanditPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"BanditPolicy": BanditPolicy}

    def __init__(
        self,
        policy: str | type[BanditPolicy],
        env: GymEnv | str,
        decision_steps: int | None = None,
        forgetting: float = 1.0,
        learning: bool = True,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
    ) -> None:
        if decision_steps is not None and not decision_steps >= 1:
            raise ValueError(f"decision_steps must be at least 1 or None, got {decision_steps}")
        if not 0 < forgetting <= 1:
            raise ValueError(f"forgetting must be in (0, 1], got {forgetting}")
        super().__init__(
            policy,
            env,
            learning_rate=0.0,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device="cpu",
            support_multi_env=True,
            seed=seed,
            supported_action_spaces=(spaces.MultiBinary,),
        )
        self.decision_steps = decision_steps
        self.forgetting = forgetting
        self.learning = learning
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self.set_random_seed(self.seed)
        policy = self.policy_class(
            self.observation_space, self.action_space, seed=self.seed, **self.policy_kwargs
        )
        assert isinstance(policy, BanditPolicy)
        self.policy = policy

    def _begin(self, total_timesteps: int) -> None:
        self._decisions = [self._decide(index, 0.0) for index in range(self.n_envs)]

    def _decide(self, index: int, progress: float) -> _Decision:
        """Sample the model, or take what it expects: what an environment does from here on."""
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
        for observation, decision in zip(observations, self._decisions, strict=True):
            progress = float(observation[policy.n_patches])
            n_keep = policy.best_count(progress, decision.budget_steps, decision.weights)
            masks.append(policy.draw(decision.scores, n_keep, policy.rng))
        return np.stack(masks)

    def _take(
        self,
        observations: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        if not self.learning:
            return
        policy = self.policy
        for index, decision in enumerate(self._decisions):
            before, after = decision.progress, infos[index]["progress"]
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
            if dones[index] or decision.n_steps == self.decision_steps:
                self._learn_from(decision)
                self._decisions[index] = self._decide(index, 0.0 if dones[index] else after)

    def _learn_from(self, decision: _Decision) -> None:
        """Update the belief by what a decision was worth."""
        if decision.cost <= 0:  # nothing of the budget was used: worth nothing, and no matter
            return
        policy = self.policy
        worth = decision.reward / decision.cost
        features = torch.from_numpy(decision.features / decision.cost)
        expected = float(policy.of_counts.mean() @ features)
        policy.of_counts.update(features, worth, self.forgetting)
        # What the number of patches does not explain may be due to which they were.
        patches = torch.from_numpy(decision.patches / decision.cost)
        policy.of_patches.update(patches, worth - expected, self.forgetting)
        self.logger.record("agent/worth", worth)
        self.logger.record("agent/n_decisions", float(policy.of_counts.n_seen))
