"""`vit-patch compare`: methods x seeds."""
