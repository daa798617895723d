"""A Vision Transformer's training loop as the Gymnasium environment `ViTPatchSelect-v0`.

`TextPatchSelect-v0` is the same environment over the tokens of a text classifier.
"""

import vit_patch_env.system.starting  # noqa: F401, I001  (first: the others take a while)

import gymnasium as gym
import lazy_loader

import vit_patch_env.system.forking  # noqa: F401  (protects the processes that are forked)

# Imported on first use: importing torch takes seconds, and `vit-patch --help` does not need it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["ENV_ID", "TEXT_ENV_ID"]

__version__ = "0.2.0"

ENV_ID = "ViTPatchSelect-v0"
TEXT_ENV_ID = "TextPatchSelect-v0"

for id_, entry_point in (
    (ENV_ID, "vit_patch_env.env:ViTPatchSelectEnv"),
    (TEXT_ENV_ID, "vit_patch_env.text_env:make_text_env"),
):
    if id_ not in gym.registry:  # not registered again when the module is reloaded
        gym.register(id_, entry_point=entry_point)
del id_, entry_point
