"""Experiments with ViTPatchSelect-v0: the command line, a monitor and checkpoints for scripts."""

from vit_patch_env.experiments.checkpoints.callback import RunCheckpoint
from vit_patch_env.experiments.runs.monitor import EpochFigures, StepFigures, TrainingMonitor

__all__ = ["EpochFigures", "RunCheckpoint", "StepFigures", "TrainingMonitor"]
