"""`vit-patch train`, `evaluate` and `pretrain`, and what watches a run."""
