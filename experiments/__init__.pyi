from .checkpoints.callback import RunCheckpoint
from .checkpoints.environments import SavedLayers
from .run_folder.tables import EpochMetrics
from .runs.epoch_sums import StepMetrics
from .runs.monitor import TrainingMonitor

__all__ = ["EpochMetrics", "RunCheckpoint", "SavedLayers", "StepMetrics", "TrainingMonitor"]
