"""The patch grid, selections of patches, and sampling them."""
