"""A Vision Transformer's training loop as the Gymnasium environment `ViTPatchSelect-v0`."""

import gymnasium as gym
import lazy_loader

# Imported when first used, as torch takes seconds: `vit-patch --help` does without.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.2.0"

ENV_ID = "ViTPatchSelect-v0"

if ENV_ID not in gym.registry:  # a second import, as in a reload, registers nothing anew
    gym.register(ENV_ID, entry_point="vit_patch_env.env:ViTPatchSelectEnv")
