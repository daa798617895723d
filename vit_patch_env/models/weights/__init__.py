"""Weights that training starts from: a library's published ones, or those of a file."""
