"""`vit-patch plan`: what a training would cost, before it is run."""
