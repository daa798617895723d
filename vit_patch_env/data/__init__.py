"""Images: data sets by name, splits, image folders, streams of batches."""
