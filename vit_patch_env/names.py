"""The names that arguments accept; their meanings are in the modules given below them."""

from typing import Literal

DatasetName = Literal["digits", "cifar10", "cifar100", "fashion_mnist", "folder", "synthetic"]
"""Loaders in `data/datasets.py`."""

DATASET_PREFIXES = ("torchvision:", "hf:")
"""Before the class of a data set of torchvision, and before the path of a Hugging Face folder."""

ImagesName = Literal["auto", "memory", "stream"]
"""Where images are kept: `data/sources.py`."""

ResizeName = Literal["crop", "stretch", "pad"]
"""How images become squares: `data/pictures.py`."""

InterpolationName = Literal["bilinear", "bicubic"]
"""How pictures are resized: `data/resize.py`."""

SplitName = Literal["train", "val", "test"]

ModelName = Literal[
    "simple_vit", "vit", "ats_vit", "evit", "tome", "patch_merger", "patch_dropout",
    "token_expansion",
]  # fmt: skip
"""Modules in `models/`, each with its class as `MODEL`."""

ModelFamily = Literal["timm", "torchvision", "hf", "vit_pytorch"]
"""Libraries in `models/families/`: a model's name is `<family>:<name of the library>`."""

PublishedFamily = Literal["timm", "torchvision", "hf"]
"""Those of them whose weights are published: `models/weights/`."""

AugmentName = Literal[
    "crop-flip", "none", "randaugment", "trivialaugment", "random-resized-crop",
]  # fmt: skip
"""Functions in `data/augment.py`."""

OptimizerName = Literal["adam", "adamw", "sgd", "sgd_nesterov"]
"""Optimizers in `training/optimizers.py`."""

ScheduleName = Literal["constant", "cosine"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]

BudgetName = Literal["epochs", "flops", "seconds"]
"""Units of a budget: `training/budget.py`."""

BudgetEndName = Literal["truncated", "terminated"]
"""How an episode ends when its budget is used, in Gymnasium's words."""

ObservationName = Literal[
    "attention_output", "attention_standardized", "attention_received", "class_attention", "none",
]  # fmt: skip
"""Functions in `observation.py`; the argument is a text with one of them: `observation_text.py`."""

RewardName = Literal["paper", "validation", "progress", "aic"]
"""Functions in `reward.py`."""
