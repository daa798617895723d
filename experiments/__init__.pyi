from .checkpoints.callback import RunCheckpoint
from .run_folder.tables import EpochMetrics
from .runs.monitor import TrainingMonitor
from .runs.sums import StepMetrics

__all__ = ["EpochMetrics", "RunCheckpoint", "StepMetrics", "TrainingMonitor"]
