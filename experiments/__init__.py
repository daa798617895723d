"""Experiments with ViTPatchSelect-v0: the command line, a monitor and checkpoints for scripts."""

from experiments.monitor import EpochFigures, StepFigures, TrainingMonitor
from experiments.run_checkpoint import RunCheckpoint

__all__ = ["EpochFigures", "RunCheckpoint", "StepFigures", "TrainingMonitor"]
