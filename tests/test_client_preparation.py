"""Images as the page about servers prepares them, without this package, are those of the run."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_documents import ROOT, run_blocks
from vit_patch_env.arguments import to_json
from vit_patch_env.experiments.use.images import Preprocessing
from vit_patch_env.models.weights.card import WeightsCard

SIZES = [(16, 24), (41, 30), (13, 90), (100, 7), (15, 23)]
"""Width and height of pictures, the first that of the images."""


@pytest.fixture(scope="module")
def prepare():
    """The function on the page."""
    page = ROOT / "docs" / "using.md"
    (block,) = (block for block in run_blocks(page, "python") if "def prepare(" in block.code)
    names = {}
    exec(block.code.partition("\n\n\nimages = ")[0], names)
    return names["prepare"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
def test_a_client_prepares_images_as_the_run_does(
    prepare, resize, interpolation, channels, mode, tmp_path
):
    card = WeightsCard(
        model="simple_vit", image_size=(24, 16), patch_size=8, channels=channels, classes=("a",),
        mean=(0.4, 0.5, 0.6)[:channels], std=(0.2, 0.3, 0.0)[:channels], resize=resize,
        interpolation=interpolation,
    )  # fmt: skip
    preprocess = Preprocessing(card, torch.device("cpu"))
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        pixels = rng.integers(256, size=(height, width, len(mode)), dtype=np.uint8)
        path = tmp_path / f"{width}.png"
        Image.fromarray(pixels.squeeze()).save(path)
        made = prepare(path, to_json(card))
        assert made.dtype == np.float32
        assert np.abs(made - preprocess(path).numpy()).max() < 1e-5, (width, height)
