"""Every patch is an agent, and all share one policy: PPO through PettingZoo and SuperSuit.

Needs the extra multi-agent: pip install 'vit-patch-env[multi-agent]'.
"""

import gymnasium as gym
import supersuit
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed

import vit_patch_env  # noqa: F401  (registers ViTPatchSelect-v0)
from vit_patch_env.multi_agent import PatchAgents, SharedPolicy

agents = PatchAgents(
    gym.make(
        "ViTPatchSelect-v0", observation="attention_received",
        epochs=2, dim=32, depth=2, heads=4, mlp_dim=64,
    )
)  # fmt: skip
# SuperSuit's environments cannot be seeded, and so PPO cannot seed them.
set_random_seed(0)
agents.reset(seed=0)
vec_env = supersuit.concat_vec_envs_v1(
    supersuit.pettingzoo_env_to_vec_env_v1(agents), 1, base_class="stable_baselines3"
)
# Each step of the run is a transition of each of the 64 agents.
ppo = PPO("MlpPolicy", vec_env, n_steps=20, batch_size=320, device="cpu")
ppo.learn(agents.env.unwrapped.max_steps * agents.n_patches)

# SuperSuit has trained in a copy, and has reset it when the run ended.
env = vec_env.unwrapped.vec_envs[0].par_env.env.unwrapped
print("all patches", env.last_episode.evaluate("val"))
print(
    "the agents'",
    env.last_episode.evaluate("val", SharedPolicy(ppo, agents.n_patches, agents.grid)),
)
