"""`vit-patch bench`: steps and epochs timed beside the baselines."""
