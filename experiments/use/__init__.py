"""Using what a run has trained: `load_run`, `vit-patch predict` and `vit-patch export`."""
