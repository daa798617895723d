"""Pictures of another shape than the images that they become, which are not square either."""

import numpy as np
from PIL import Image


def wide_pictures(folder, classes):
    """Write 20 pictures of each class and split; the options to read them."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for index in range(20):
                pixels = rng.integers(0, 56, (20, 30, 3), dtype=np.uint8) + np.uint8(100 * label)
                Image.fromarray(pixels).save(folder / split / name / f"{index:02}.png")
    return ["--dataset", "folder", "--data-dir", str(folder), "--image-size", "16", "32"]
