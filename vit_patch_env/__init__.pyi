from .agent_evaluation import evaluate_agent
from .data.datasets import load_dataset
from .data.docstrings import load_docstrings
from .data.splits import ImageData
from .data.texts import TextData, from_texts
from .data.torch_datasets import from_torch
from .env import ViTPatchSelectEnv
from .episode import Episode, Selector
from .experiments.use.loaded_run import LoadedRun
from .experiments.use.loading import load_run
from .integrations.schedule import PatchSchedule
from .models.contract import select_patches
from .models.simple_vit import SimpleViT
from .models.text_encoder import TextEncoder, bert_encoder
from .training.evaluation import Metrics
from .training.run import TrainingRun
from .training.trainer import Trainer
from .wrappers import CountAction, NumPyInfo, TopKAction

ENV_ID: str
TEXT_ENV_ID: str
__version__: str

__all__ = [
    "CountAction",
    "Episode",
    "ImageData",
    "LoadedRun",
    "Metrics",
    "NumPyInfo",
    "PatchSchedule",
    "Selector",
    "SimpleViT",
    "TextData",
    "TextEncoder",
    "TopKAction",
    "Trainer",
    "TrainingRun",
    "ViTPatchSelectEnv",
    "bert_encoder",
    "evaluate_agent",
    "from_texts",
    "from_torch",
    "load_dataset",
    "load_docstrings",
    "load_run",
    "select_patches",
]
