"""`vit-patch bench`: time of training steps and epochs, compared with baselines."""
