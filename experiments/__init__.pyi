from .checkpoints.callback import RunCheckpoint
from .runs.epoch_metrics import EpochMetrics, StepMetrics
from .runs.monitor import TrainingMonitor

__all__ = ["EpochMetrics", "RunCheckpoint", "StepMetrics", "TrainingMonitor"]
