"""`vit-patch report`: tables, plots and text from a comparison's files."""
