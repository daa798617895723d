"""Checkpoints of a training run, for any Stable-Baselines3 algorithm."""
