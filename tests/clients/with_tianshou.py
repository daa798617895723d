"""Tianshou: vector environments, collectors, and a few updates of PPO, DQN and SAC."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch
from tianshou.algorithm import DQN, PPO
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv, SubprocVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.torch_utils import policy_within_training_step
from torch import nn
from torch.distributions import Bernoulli, Independent

import vit_patch_env
from tests.clients.attempts import N_STEPS, TINY, attempt
from vit_patch_env import CountAction

Make = Callable[[], gym.Env]


def make() -> gym.Env:
    return gym.make(vit_patch_env.ENV_ID, **TINY, observation="attention_standardized")


def make_count() -> gym.Env:
    return CountAction(make())


class Linear(nn.Module):
    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(16, n_out)

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Any:
        return self.linear(torch.as_tensor(obs)), state


class Value(Linear):
    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, obs: Any, **kwargs: Any) -> Any:
        return super().forward(obs)[0]


def ppo_algorithm() -> PPO:
    policy = ProbabilisticActorPolicy(
        actor=Linear(16),
        dist_fn=lambda logits: Independent(Bernoulli(logits=logits), 1),
        action_space=make().action_space,
        action_scaling=False,
        action_bound_method=None,
    )
    return PPO(policy=policy, critic=Value(), optim=AdamOptimizerFactory())


def dqn_algorithm() -> DQN:
    env = make_count()
    net = Net(state_shape=16, action_shape=env.action_space.n, hidden_sizes=[16])
    policy = DiscreteQLearningPolicy(model=net, action_space=env.action_space, eps_training=0.5)
    return DQN(policy=policy, optim=AdamOptimizerFactory(), target_update_freq=10)


def collected(algorithm: Any, make_one: Make, vectorize: Any, **more: Any) -> Collector:
    envs = vectorize([make_one, make_one])
    envs.seed(0)
    collector = Collector(algorithm, envs, VectorReplayBuffer(200, 2), **more)
    collector.reset()
    with policy_within_training_step(algorithm.policy):
        stats = collector.collect(n_episode=2)
    assert stats.lens.tolist() == [N_STEPS, N_STEPS]
    assert len(collector.buffer) == 2 * N_STEPS
    return collector


def ppo(vectorize: Any) -> None:
    algorithm = ppo_algorithm()
    collector = collected(algorithm, make, vectorize)
    before = algorithm.policy.actor.linear.weight.clone()
    with policy_within_training_step(algorithm.policy):
        algorithm.update(collector.buffer, batch_size=16, repeat=2)
    assert not torch.equal(before, algorithm.policy.actor.linear.weight)
    collector.collect(n_step=4 * N_STEPS)
    collector.env.close()


def dqn() -> None:
    algorithm = dqn_algorithm()
    collector = collected(algorithm, make_count, DummyVectorEnv, exploration_noise=True)
    with policy_within_training_step(algorithm.policy):
        for _ in range(3):
            algorithm.update(collector.buffer, sample_size=16)
            collector.collect(n_step=8)


if __name__ == "__main__":
    attempt(
        "Tianshou",
        "tianshou",
        {
            "PPO with `DummyVectorEnv`, `Collector`, update": lambda: ppo(DummyVectorEnv),
            "with `SubprocVectorEnv`": lambda: ppo(SubprocVectorEnv),
            "DQN through `CountAction`": dqn,
        },
    )
