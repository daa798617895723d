from .checkpoints.callback import RunCheckpoint
from .runs.monitor import EpochMetrics, StepMetrics, TrainingMonitor

__all__ = ["EpochMetrics", "RunCheckpoint", "StepMetrics", "TrainingMonitor"]
