"""Checkpoints of a run, for any Stable-Baselines3 algorithm."""
