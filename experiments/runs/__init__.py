"""`vit-patch train`, `evaluate` and `pretrain`, and monitoring of a run."""
