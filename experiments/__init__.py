"""Experiments with ViTPatchSelect-v0: the command line, and a monitor for scripts."""

from experiments.monitor import EpochFigures, StepFigures, TrainingMonitor

__all__ = ["EpochFigures", "StepFigures", "TrainingMonitor"]
