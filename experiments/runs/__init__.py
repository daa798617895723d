"""`vit-patch train`, `evaluate` and `pretrain`, and the folder that a run writes."""
