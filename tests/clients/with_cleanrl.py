"""PPO in one file, in the style of CleanRL: no framework between the environment and the update."""

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent

import vit_patch_env
from tests.clients.attempts import N_STEPS, TINY, attempt


@dataclass
class Args:
    seed: int = 1
    n_envs: int = 2
    rollout_steps: int = 20
    n_updates: int = 4
    n_epochs: int = 2
    n_minibatches: int = 2
    learning_rate: float = 2.5e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    max_grad_norm: float = 0.5


def make_env(env_id: str, seed: int) -> Callable[[], gym.Env]:
    def thunk() -> gym.Env:
        env = gym.make(env_id, **TINY, observation="attention_standardized+run")
        env = gym.wrappers.RecordEpisodeStatistics(env)
        env.action_space.seed(seed)
        return env

    return thunk


def layer(n_in: int, n_out: int, scale: float = np.sqrt(2)) -> nn.Linear:
    linear = nn.Linear(n_in, n_out)
    nn.init.orthogonal_(linear.weight, scale)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    def __init__(self, n_observed: int, n_actions: int) -> None:
        super().__init__()
        self.critic = nn.Sequential(layer(n_observed, 64), nn.Tanh(), layer(64, 1, 1.0))
        self.actor = nn.Sequential(layer(n_observed, 64), nn.Tanh(), layer(64, n_actions, 0.01))

    def forward(
        self, observed: torch.Tensor, action: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        chosen = Independent(Bernoulli(logits=self.actor(observed)), 1)
        action = chosen.sample() if action is None else action
        value = self.critic(observed).squeeze(-1)
        return action, chosen.log_prob(action), chosen.entropy(), value


def ppo(vectorize: type[gym.vector.VectorEnv], args: Args | None = None) -> str:
    args = args or Args()
    torch.manual_seed(args.seed)
    envs = vectorize(
        [make_env(vit_patch_env.ENV_ID, args.seed + index) for index in range(args.n_envs)],
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    assert isinstance(envs.single_action_space, gym.spaces.MultiBinary)
    n_observed = int(np.prod(envs.single_observation_space.shape))
    n_patches = envs.single_action_space.n
    agent = Agent(n_observed, n_patches)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)

    shape = (args.rollout_steps, args.n_envs)
    observations = torch.zeros(*shape, n_observed)
    actions = torch.zeros(*shape, n_patches)
    log_probs, rewards, dones, values = (torch.zeros(shape) for _ in range(4))

    episode_lengths: list[int] = []
    first, _ = envs.reset(seed=args.seed)
    next_observation = torch.as_tensor(first)
    next_done = torch.zeros(args.n_envs)
    for update in range(args.n_updates):
        optimizer.param_groups[0]["lr"] = (1 - update / args.n_updates) * args.learning_rate
        for step in range(args.rollout_steps):
            observations[step], dones[step] = next_observation, next_done
            with torch.no_grad():
                action, log_prob, _, value = agent(next_observation)
                # The environment trains its ViT here, whatever the mode of gradients.
                found = envs.step(action.numpy())
            actions[step], log_probs[step], values[step] = action, log_prob, value
            observed, reward, terminations, truncations, infos = found
            rewards[step] = torch.as_tensor(reward, dtype=torch.float32)
            next_observation = torch.as_tensor(observed)
            next_done = torch.as_tensor(terminations | truncations, dtype=torch.float32)
            if "final_info" in infos:
                ended = infos["final_info"]
                episode_lengths += ended["episode"]["l"][ended["_episode"]].tolist()

        with torch.no_grad():
            next_value = agent(next_observation)[-1]
            advantages = torch.zeros(shape)
            following = torch.zeros(args.n_envs)
            for step in reversed(range(args.rollout_steps)):
                last = step == args.rollout_steps - 1
                going_on = 1 - (next_done if last else dones[step + 1])
                value_after = next_value if last else values[step + 1]
                delta = rewards[step] + args.gamma * value_after * going_on - values[step]
                following = delta + args.gamma * args.gae_lambda * going_on * following
                advantages[step] = following
            returns = advantages + values

        flat = [
            one.flatten(0, 1) for one in (observations, actions, log_probs, advantages, returns)
        ]
        n_samples = args.rollout_steps * args.n_envs
        for _ in range(args.n_epochs):
            for chosen in torch.randperm(n_samples).chunk(args.n_minibatches):
                o, a, old_log_prob, advantage, value_target = (one[chosen] for one in flat)
                _, log_prob, entropy, value = agent(o, a)
                ratio = (log_prob - old_log_prob).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1 - args.clip, 1 + args.clip)
                policy_loss = -torch.minimum(advantage * ratio, advantage * clipped).mean()
                value_loss = 0.5 * (value - value_target).square().mean()
                loss = policy_loss + args.value_weight * value_loss
                loss -= args.entropy_weight * entropy.mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()
        assert loss.isfinite()

    n_episodes = args.n_updates * args.rollout_steps // N_STEPS
    assert episode_lengths == [N_STEPS] * args.n_envs * n_episodes, episode_lengths
    envs.close()
    return f"{len(episode_lengths)} episodes"


if __name__ == "__main__":
    attempt(
        "PPO as CleanRL writes it",
        None,
        {
            "`SyncVectorEnv`, `RecordEpisodeStatistics`, GAE, update": lambda: ppo(
                gym.vector.SyncVectorEnv
            ),
            "the same with `AsyncVectorEnv`": lambda: ppo(gym.vector.AsyncVectorEnv),
        },
    )
