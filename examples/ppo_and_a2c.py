"""Stable-Baselines3's PPO and A2C pick the patches that a small ViT trains on."""

import gymnasium as gym
from stable_baselines3 import A2C, PPO

import vit_patch_env  # noqa: F401  (registers ViTPatchSelect-v0)

for algorithm in (PPO, A2C):
    env = gym.make("ViTPatchSelect-v0", epochs=2, dim=32, depth=2, heads=4, mlp_dim=64)
    agent = algorithm("MlpPolicy", env, n_steps=64, seed=0, device="cpu")
    agent.learn(env.unwrapped.max_steps)
    print(algorithm.__name__, env.unwrapped.last_episode.evaluate("val"))
