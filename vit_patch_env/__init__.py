"""A Vision Transformer's training loop as the Gymnasium environment `ViTPatchSelect-v0`."""

import gymnasium as gym

from vit_patch_env.data.datasets import load_dataset
from vit_patch_env.data.splits import ImageData
from vit_patch_env.data.torch_datasets import from_torch
from vit_patch_env.env import ViTPatchSelectEnv
from vit_patch_env.episode import Episode, Selector
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.training.evaluation import Metrics
from vit_patch_env.training.run import TrainingRun
from vit_patch_env.training.trainer import Trainer
from vit_patch_env.wrappers import CountAction, TopKAction

__version__ = "0.1.0"

ENV_ID = "ViTPatchSelect-v0"

if ENV_ID not in gym.registry:  # a second import, as in a reload, registers nothing anew
    gym.register(ENV_ID, entry_point="vit_patch_env.env:ViTPatchSelectEnv")

__all__ = [
    "ENV_ID",
    "CountAction",
    "Episode",
    "ImageData",
    "Metrics",
    "Selector",
    "SimpleViT",
    "TopKAction",
    "Trainer",
    "TrainingRun",
    "ViTPatchSelectEnv",
    "from_torch",
    "load_dataset",
]
