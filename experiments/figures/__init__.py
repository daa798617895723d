"""Figures of a run's test images: in result.json, on the terminal, in files and in TensorBoard."""
