"""The environment and this package's agents in rl_zoo3, as `vit-patch zoo`.

Importing this module registers `ViTPatchSelectDigits-v0`, the task on which the values in
`hyperparams/` were found, so that `python -m rl_zoo3.train --gym-packages
vit_patch_env.experiments.zoo` knows it too. Algorithms can only be added before rl_zoo3 reads its
arguments: `algorithms.register` does that for scripts, `vit-patch zoo` on the command line.
"""

from typing import Any

import gymnasium as gym

ZOO_ENV_ID = "ViTPatchSelectDigits-v0"

ZOO_ENV: dict[str, Any] = {
    "dataset": "digits",
    "patch_size": 8,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "dim_head": 16,
    "mlp_dim": 64,
    "epochs": 3,
    "learning_rate": 2e-3,
    "precision": "fp32",
    "device": "cpu",
    "observation": "attention_standardized+run",
}
"""A ViT of 16 patches that trains in a second: 60 steps, the paper's reward."""

if ZOO_ENV_ID not in gym.registry:  # not registered again when the module is reloaded
    gym.register(ZOO_ENV_ID, entry_point="vit_patch_env.env:ViTPatchSelectEnv", kwargs=ZOO_ENV)
