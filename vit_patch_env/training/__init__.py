"""The training loop of a ViT."""
