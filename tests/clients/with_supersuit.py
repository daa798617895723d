"""SuperSuit: examples/multi_agent.py in short, and several environments in processes."""

import gymnasium as gym
import numpy as np
import supersuit
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed

import vit_patch_env
from tests.clients.attempts import N_STEPS, TINY, attempt
from vit_patch_env.multi_agent import PatchAgents, SharedPolicy


def make() -> PatchAgents:
    env = gym.make(vit_patch_env.ENV_ID, **TINY, observation="attention_received")
    return PatchAgents(env)


def learn() -> str:
    set_random_seed(0)  # as SuperSuit's environments cannot be seeded
    agents = make()
    agents.reset(seed=0)
    vec_env = supersuit.concat_vec_envs_v1(
        supersuit.pettingzoo_env_to_vec_env_v1(agents), 1, base_class="stable_baselines3"
    )
    ppo = PPO("MlpPolicy", vec_env, n_steps=N_STEPS, batch_size=64, device="cpu")
    ppo.learn(2 * N_STEPS * agents.n_patches)
    env = vec_env.unwrapped.vec_envs[0].par_env.env.unwrapped
    assert env.last_episode.progress == 1
    metrics = env.last_episode.evaluate("val", SharedPolicy(ppo, agents.n_patches, agents.grid))
    return f"{agents.n_patches} agents, validation accuracy {metrics.accuracy:.2f}"


def processes() -> None:
    vec_env = supersuit.concat_vec_envs_v1(
        supersuit.pettingzoo_env_to_vec_env_v1(make()), 2, num_cpus=2, base_class="gymnasium"
    )
    vec_env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(2 * N_STEPS):
        observations, rewards, *_ = vec_env.step(rng.integers(2, size=32))
    assert observations.shape == (32, 5)
    assert rewards.shape == (32,)
    vec_env.close()


if __name__ == "__main__":
    attempt(
        "SuperSuit",
        "supersuit",
        {
            "`concat_vec_envs_v1`, Stable-Baselines3's PPO shared by all patches": learn,
            "two processes": processes,
        },
    )
