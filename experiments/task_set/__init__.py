"""A set of training tasks: data, ViT, patch grid and budget, to learn on and to be tested on."""
